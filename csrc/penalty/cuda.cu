// Quadratic penalties on the GPU: the kernels and their launches; what each thread does is in program.h.
#include "../cuda.h"

namespace ftbench::FTBENCH_GPU {
namespace {

// What one launch takes as its argument; a call with more terms is cut into several.
#if CUDART_VERSION >= 12010
constexpr int kTermsPerLaunch = 384;
#else
constexpr int kTermsPerLaunch = 48;  // arguments had 4 KiB at most
#endif

struct TermTable {
  Term terms[kTermsPerLaunch];
  int64_t starts[kTermsPerLaunch + 1];  // the first block of each, and their number
  int64_t count;
};

static_assert(sizeof(TermTable) + 16 <= (CUDART_VERSION >= 12010 ? 32764 : 4096),
              "the table travels as the kernel's argument");

// The sum of all threads' sums in thread 0, always in one order: of every 32nd, then of those.
template <unsigned kCount>
__device__ double block_total(double number) {
  constexpr unsigned kParts = 32;
  using Sums = double[kCount];
  FTBENCH_STATIC_SHARED(Sums, sums);
  sums[threadIdx.x] = number;
  __syncthreads();
  if (threadIdx.x < kParts) {
    for (unsigned i = threadIdx.x + kParts; i < kCount; i += kParts) number += sums[i];
    sums[threadIdx.x] = number;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned i = 1; i < kParts; ++i) number += sums[i];
  }
  return number;
}

// Three blocks at a time on a processor: enough loads on their way to keep the memory busy.
__global__ void __launch_bounds__(kPenaltyThreads, 3)
    add_blocks(FTBENCH_LARGE_ARGUMENT(TermTable) table, double scale, double* partials) {
  const int64_t block = blockIdx.x / kGroupsPerBlock, group = blockIdx.x % kGroupsPerBlock;
  const int64_t index = term_of(table.starts, table.count, block);
  const double sum = block_total<kPenaltyThreads>(add_group_part(
      table.terms[index], block - table.starts[index], group, threadIdx.x, scale));
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

constexpr int kTotalThreads = 1024;

// Half the sum of the partials, always in one order.
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

cudaError_t launch_penalty(const Term* terms, const int64_t* starts, int64_t count, double scale,
                           double* partials, void* value, bool in_double, cudaStream_t stream) {
  double* next = partials;
  for (int64_t first = 0; first < count; first += kTermsPerLaunch) {
    TermTable table;
    table.count = count - first < kTermsPerLaunch ? count - first : kTermsPerLaunch;
    for (int64_t i = 0; i < table.count; ++i) table.terms[i] = terms[first + i];
    for (int64_t i = 0; i <= table.count; ++i) table.starts[i] = starts[first + i] - starts[first];
    const int64_t groups = table.starts[table.count] * kGroupsPerBlock;
    const cudaError_t error =
        launch(add_blocks, groups, kPenaltyThreads, 0, stream, table, scale, next);
    if (error != cudaSuccess) return error;
    next += groups;
  }
  const int64_t sums = next - partials;
  return launch(add_partials, 1, kTotalThreads, 0, stream, partials, sums, value, in_double);
}

}  // namespace ftbench::FTBENCH_GPU
