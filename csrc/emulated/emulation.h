// CUDA's words for the CPU, for tests: what cuda.cu files are written in, where no GPU compiles or
// runs them. Blocks run one after another, and in each every thread on a stack of its own, which
// gives way where the block's threads wait for each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#define CUDART_VERSION 13000
#define FTBENCH_GPU emulated
#define FTBENCH_LARGE_ARGUMENT(Type) const Type&
#define FTBENCH_STATIC_SHARED(Type, name) Type& name = static_shared<Type>()
#define FTBENCH_DYNAMIC_SHARED(Type, name) Type* name = static_cast<Type*>(dynamic_shared())
#define __global__
#define __device__
#define __launch_bounds__(threads)

namespace ftbench::emulated {

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct Index {
  unsigned x;
};
inline thread_local Index threadIdx, blockIdx;

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaStream_t {};

void __syncthreads();

// What the threads of a block share is new for each block: nothing that another left can be taken
// for its own.
void* dynamic_shared();
void forget_between_blocks(void* shared, size_t bytes);
// A kernel has one of a type.
template <class Type>
Type& static_shared() {
  static thread_local Type shared;
  static thread_local const bool known = (forget_between_blocks(&shared, sizeof shared), true);
  static_cast<void>(known);
  return shared;
}

// What a kernel has asked to share, and may without asking.
template <class Kernel>
size_t& most_shared(Kernel* kernel) {
  constexpr size_t kUnasked = 49152;
  static thread_local Kernel* asking = nullptr;
  static thread_local size_t bytes = kUnasked;
  if (asking != kernel) bytes = kUnasked;
  asking = kernel;
  return bytes;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  most_shared(kernel) = bytes;
  return cudaSuccess;
}

void run_blocks(int64_t grid, int threads, size_t bytes, const std::function<void()>& kernel);

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t grid, int threads, size_t bytes,
                   cudaStream_t, const Arguments&... arguments) {
  const bool fits = grid > 0 && grid < int64_t{1} << 31 && threads <= 1024;
  if (!fits || bytes > most_shared(kernel)) return cudaErrorInvalidValue;
  run_blocks(grid, threads, bytes, [&] { kernel(arguments...); });
  return cudaSuccess;
}

}  // namespace ftbench::emulated
