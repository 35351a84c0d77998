// Quadratic penalties on the GPU: the launches; what each thread does is in program.h.
#include "../cuda.h"

namespace ftbench {
namespace {

static_assert(sizeof(TermTable) + 16 <= (CUDART_VERSION >= 12010 ? 32764 : 4096),
              "the table travels as the kernel's argument");

// The sum of all threads' numbers in thread 0, always in one order.
template <int kCount>
__device__ double block_total(double number) {
  __shared__ double numbers[kCount];
  numbers[threadIdx.x] = number;
  __syncthreads();
  for (int width = kCount / 2; width > 0; width /= 2) {
    if (threadIdx.x < width) numbers[threadIdx.x] += numbers[threadIdx.x + width];
    __syncthreads();
  }
  return numbers[0];
}

__global__ void __launch_bounds__(kPenaltyThreads)
    add_blocks(const __grid_constant__ TermTable table, double scale, double* partials) {
  const int64_t block = blockIdx.x / kGroupsPerBlock, group = blockIdx.x % kGroupsPerBlock;
  const int64_t index = term_of(table.starts, table.count, block);
  const double sum = block_total<kPenaltyThreads>(add_group_part(
      table.terms[index], block - table.starts[index], group, threadIdx.x, scale));
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

constexpr int kTotalThreads = 1024;

__global__ void __launch_bounds__(kTotalThreads)
    add_partials(const double* partials, int64_t count, void* value, bool in_double) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kTotalThreads) sum += partials[i];
  sum = 0.5 * block_total<kTotalThreads>(sum);
  if (threadIdx.x != 0) return;
  if (in_double) {
    *static_cast<double*>(value) = sum;
  } else {
    *static_cast<float*>(value) = static_cast<float>(sum);
  }
}

}  // namespace

cudaError_t launch_penalty(const TermTable& table, double scale, double* partials,
                           cudaStream_t stream) {
  const unsigned groups = static_cast<unsigned>(table.starts[table.count] * kGroupsPerBlock);
  add_blocks<<<groups, kPenaltyThreads, 0, stream>>>(table, scale, partials);
  return cudaGetLastError();
}

cudaError_t launch_total(const double* partials, int64_t count, void* value, bool in_double,
                         cudaStream_t stream) {
  add_partials<<<1, kTotalThreads, 0, stream>>>(partials, count, value, in_double);
  return cudaGetLastError();
}

}  // namespace ftbench
