// Views on the GPU: the kernel and its launch; what each thread does is in program.h.
#include "../cuda.h"

namespace ftbench::FTBENCH_GPU {
namespace {

template <class Out>
__global__ void __launch_bounds__(kThreads)
    augment_pixels(Augment call, FTBENCH_LARGE_ARGUMENT(Normalization) norm) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index < call.batch * call.pixels()) augment_pixel<Out>(call, norm, index);
}

}  // namespace

cudaError_t launch_augment(const Augment& call, const Normalization& norm, cudaStream_t stream) {
  const int64_t blocks = (call.batch * call.pixels() + kThreads - 1) / kThreads;
  switch (call.to) {
    case Element::kHalf:
      return launch(augment_pixels<c10::Half>, blocks, kThreads, 0, stream, call, norm);
    case Element::kBFloat16:
      return launch(augment_pixels<c10::BFloat16>, blocks, kThreads, 0, stream, call, norm);
    default:
      return launch(augment_pixels<float>, blocks, kThreads, 0, stream, call, norm);
  }
}

}  // namespace ftbench::FTBENCH_GPU
