// Mixing on the GPU: the kernels and their launches; what each thread does is in program.h.
#include "../cuda.h"

namespace ftbench::FTBENCH_GPU {
namespace {

template <class In, class Out, int kSize>
__global__ void __launch_bounds__(kThreads)
    mix_groups(Mix mix, FTBENCH_LARGE_ARGUMENT(Normalization) norm, Cut cut) {
  FTBENCH_STATIC_SHARED(Group, group);
  prepare(mix, cut, blockIdx.x, threadIdx.x, group);
  __syncthreads();
  mix_group<In, Out, kSize>(mix, norm, cut, group, blockIdx.x, threadIdx.x);
}

template <class Out, int kSize>
__global__ void __launch_bounds__(kThreads)
    mix_all_triples(Mix mix, FTBENCH_LARGE_ARGUMENT(Normalization) norm, Cut cut) {
  FTBENCH_STATIC_SHARED(Group, group);
  prepare(mix, cut, blockIdx.x, threadIdx.x, group);
  __syncthreads();
  mix_triples<Out, kSize>(mix, norm, cut, group, blockIdx.x, threadIdx.x);
}

template <class T, int kSize>
__global__ void __launch_bounds__(kSlabThreads)
    mix_slab_in_place(Mix mix, FTBENCH_LARGE_ARGUMENT(Normalization) norm, Slabs slabs) {
  FTBENCH_DYNAMIC_SHARED(uint4, shared);
  auto* image_mixes = reinterpret_cast<ImageMix*>(shared);
  const Slab<T, kSize> slab{image_mixes, reinterpret_cast<Pack<T, kSize>*>(image_mixes + slabs.batch)};
  read_slab(mix, slabs, blockIdx.x, threadIdx.x, slab);
  __syncthreads();
  write_slab(mix, norm, slabs, blockIdx.x, threadIdx.x, slab);
}

__global__ void __launch_bounds__(kThreads)
    label_weights(const float* weight, const int32_t* box, int64_t batch, int64_t height,
                  int64_t width, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < batch) out[i] = label_weight_of(weight[i], box + 4 * i, height, width);
}

// Chooses the program for a batch: `run` has groups<In, Out, kSize>(), triples<Out, kSize>() and
// in_place<T, kSize>(), and its result is returned.
bool on_sixteen_bytes(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <class In, class Out, class Span>
auto dispatch_pair(const Mix& mix, const Span& run) {
  constexpr int kSize = 16 / sizeof(Out);
  const bool alike = mix.images_last == mix.out_last;
  const bool aligned = on_sixteen_bytes(mix.images) && on_sixteen_bytes(mix.out);
  const bool packs = aligned && alike && mix.channels * mix.pixels() % kSize == 0 &&
                     rows_hold_packs<kSize>(mix);
  if constexpr (std::is_same_v<In, Out>) {
    if (mix.in_place()) {
      return packs ? run.template in_place<In, kSize>() : run.template in_place<In, 1>();
    }
  }
  if (packs) return run.template groups<In, Out, kSize>();
  if constexpr (sizeof(In) == 1) {
    if (aligned && !alike && mix.channels == 3 && rows_hold_packs<kSize>(mix)) {
      return run.template triples<Out, kSize>();
    }
  }
  return run.template groups<In, Out, 1>();
}

template <class In, class Span>
auto dispatch_from(const Mix& mix, const Span& run) {
  switch (mix.to) {
    case Element::kHalf:
      return dispatch_pair<In, c10::Half>(mix, run);
    case Element::kBFloat16:
      return dispatch_pair<In, c10::BFloat16>(mix, run);
    default:
      return dispatch_pair<In, float>(mix, run);
  }
}

template <class Span>
auto dispatch(const Mix& mix, const Span& run) {
  switch (mix.from) {
    case Element::kByte:
      return dispatch_from<uint8_t>(mix, run);
    case Element::kHalf:
      return dispatch_from<c10::Half>(mix, run);
    case Element::kBFloat16:
      return dispatch_from<c10::BFloat16>(mix, run);
    default:
      return dispatch_from<float>(mix, run);
  }
}

// What every kernel may share; more must be asked for.
constexpr size_t kSharedUnasked = 49152;

struct Launch {
  const Mix& mix;
  const Normalization& norm;
  cudaStream_t stream;

  template <class In, class Out, int kSize>
  cudaError_t groups() const {
    const Cut cut = cut_batch(mix, packs_of<kSize>(mix));
    return launch(mix_groups<In, Out, kSize>, blocks_of(cut), kThreads, 0, stream, mix, norm, cut);
  }
  template <class Out, int kSize>
  cudaError_t triples() const {
    const Cut cut = cut_batch(mix, mix.pixels() / kSize);
    return launch(mix_all_triples<Out, kSize>, blocks_of(cut), kThreads, 0, stream, mix, norm, cut);
  }
  template <class T, int kSize>
  cudaError_t in_place() const {
    const Slabs slabs = cut_slabs<T, kSize>(mix);
    const auto kernel = mix_slab_in_place<T, kSize>;
    const size_t bytes =
        slabs.batch * (sizeof(ImageMix) + slabs.slice_packs * sizeof(Pack<T, kSize>));
    if (bytes > kSharedUnasked) {
      const cudaError_t error = cudaFuncSetAttribute(
          kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kMostSlabBytes));
      if (error != cudaSuccess) return error;
    }
    return launch(kernel, slabs.count, kSlabThreads, bytes, stream, mix, norm, slabs);
  }
};

}  // namespace

cudaError_t launch_label_weight(const float* weight, const int32_t* box, int64_t batch,
                                int64_t height, int64_t width, float* out, cudaStream_t stream) {
  if (batch == 0) return cudaSuccess;
  return launch(label_weights, (batch + kThreads - 1) / kThreads, kThreads, 0, stream, weight, box,
                batch, height, width, out);
}

cudaError_t launch_mix(const Mix& mix, const Normalization& norm, cudaStream_t stream) {
  return dispatch(mix, Launch{mix, norm, stream});
}

}  // namespace ftbench::FTBENCH_GPU
