// Mixing on the GPU: the launches; what each thread does is in program.h.
#include "../cuda.h"

namespace ftbench {
namespace {

template <class In, class Out, int kSize>
__global__ void __launch_bounds__(kThreads) mix_groups(Mix mix, Normalization norm) {
  mix_group<In, Out, kSize>(mix, norm, blockIdx.x, threadIdx.x);
}

template <class Out, int kSize>
__global__ void __launch_bounds__(kThreads) mix_all_triples(Mix mix, Normalization norm) {
  mix_triples<Out, kSize>(mix, norm, blockIdx.x, threadIdx.x);
}

// Every block works out the order for itself: one launch, and a plan that a captured graph's user
// has changed in place is read anew.
template <class T, int kSize>
__global__ void __launch_bounds__(kThreads) mix_all_in_place(Mix mix, Normalization norm) {
  extern __shared__ unsigned char shared[];
  Step* steps = reinterpret_cast<Step*>(shared);
  int32_t* waiting = reinterpret_cast<int32_t*>(steps + mix.batch);
  if (threadIdx.x == 0) order_steps(mix.partner, mix.batch, waiting, steps);
  __syncthreads();
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pack < packs_of<kSize>(mix)) mix_in_place<T, kSize>(mix, norm, steps, pack);
}

struct Launch {
  const Mix& mix;
  const Normalization& norm;
  cudaStream_t stream;

  template <class In, class Out, int kSize>
  cudaError_t groups() const {
    const unsigned grid = static_cast<unsigned>(blocks_for(mix, packs_of<kSize>(mix)));
    mix_groups<In, Out, kSize><<<grid, kThreads, 0, stream>>>(mix, norm);
    return cudaGetLastError();
  }
  template <class Out, int kSize>
  cudaError_t triples() const {
    const unsigned grid = static_cast<unsigned>(blocks_for(mix, mix.pixels() / kSize));
    mix_all_triples<Out, kSize><<<grid, kThreads, 0, stream>>>(mix, norm);
    return cudaGetLastError();
  }
  template <class T, int kSize>
  cudaError_t in_place() const {
    const int64_t packs = packs_of<kSize>(mix);
    const unsigned grid = static_cast<unsigned>((packs + kThreads - 1) / kThreads);
    const size_t shared = mix.batch * (sizeof(Step) + sizeof(int32_t));
    mix_all_in_place<T, kSize><<<grid, kThreads, shared, stream>>>(mix, norm);
    return cudaGetLastError();
  }
};

}  // namespace

cudaError_t launch_mix(const Mix& mix, const Normalization& norm, cudaStream_t stream) {
  return dispatch(mix, Launch{mix, norm, stream});
}

}  // namespace ftbench
