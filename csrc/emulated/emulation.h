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
#define FTBENCH_DYNAMIC_SHARED(Type, name) Type* name = static_cast<Type*>(dynamic_shared())
#define __global__
#define __device__
#define __launch_bounds__(threads)
#define __shared__ static thread_local

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
void* dynamic_shared();

// What a kernel may share without asking, and what it has asked for.
constexpr size_t kSharedUnasked = 49152;
template <class Kernel>
size_t& most_shared(Kernel* kernel) {
  static thread_local Kernel* asking = nullptr;
  static thread_local size_t bytes = kSharedUnasked;
  if (asking != kernel) bytes = kSharedUnasked;
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
