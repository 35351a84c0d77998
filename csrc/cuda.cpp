// The operators for CUDA: what the dispatcher calls, on the current stream of the tensors' device.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "augment/call.h"
#include "cuda.h"
#include "mix/call.h"
#include "penalty/call.h"

namespace ftbench {
namespace {

using at::Tensor;
using Doubles = at::ArrayRef<double>;

void mix_into(const Tensor& images, const Tensor& partner, const Tensor& weight, const Tensor& box,
              Doubles mean, Doubles std, Tensor& out) {
  const c10::cuda::CUDAGuard guard(images.device());
  MixCall call(images, partner, weight, box, mean, std, out);
  if (call.empty) return;
  call.fit_gpu();
  const Normalization norm = normalization_of(call.mix);
  C10_CUDA_CHECK(gpu::launch_mix(call.mix, norm, c10::cuda::getCurrentCUDAStream()));
  call.finish(out);
}

void augment_into(const Tensor& store, const Tensor& rows, const Tensor& crop, const Tensor& flip,
                  const OptionalTensor& partner, const OptionalTensor& weight,
                  const OptionalTensor& box, Doubles mean, Doubles std, Tensor& out) {
  const c10::cuda::CUDAGuard guard(store.device());
  const AugmentCall call(store, rows, crop, flip, partner, weight, box, mean, std, out);
  if (call.empty) return;
  C10_CUDA_CHECK(gpu::launch_augment(call.augment, call.normalization(),
                                     c10::cuda::getCurrentCUDAStream()));
  call.finish(out);
}

Tensor label_weight(const Tensor& weight, const Tensor& box, int64_t height, int64_t width) {
  const c10::cuda::CUDAGuard guard(weight.device());
  const LabelCall call(weight, box, height, width);
  C10_CUDA_CHECK(gpu::launch_label_weight(
      call.weight.const_data_ptr<float>(), call.box.const_data_ptr<int32_t>(), call.out.numel(),
      height, width, call.out.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream()));
  return call.out;
}

Tensor add_quadratic_gradient_(at::TensorList parameters, const OptionalTensors& anchors,
                               const OptionalTensors& weights, Doubles strength,
                               at::TensorList gradients, at::IntArrayRef trained, double scale) {
  const c10::cuda::OptionalCUDAGuard guard(at::device_of(parameters));
  const PenaltyCall call(parameters, anchors, weights, strength, gradients, trained);
  Tensor value = call.empty_value(parameters);
  const Tensor partials =
      at::empty({call.blocks() * kGroupsPerBlock}, value.options().dtype(at::kDouble));
  C10_CUDA_CHECK(gpu::launch_penalty(
      call.terms.data(), call.starts.data(), static_cast<int64_t>(call.terms.size()), scale,
      partials.mutable_data_ptr<double>(), value.mutable_data_ptr(), call.in_double,
      c10::cuda::getCurrentCUDAStream()));
  call.finish(gradients);
  return value;
}

Tensor quadratic_value(at::TensorList parameters, const OptionalTensors& anchors,
                       const OptionalTensors& weights, Doubles strength) {
  return add_quadratic_gradient_(parameters, anchors, weights, strength, {}, {}, 0.0);
}

}  // namespace

TORCH_LIBRARY_IMPL(ftbench, CUDA, m) {
  m.impl("mix", mix_new<mix_into>);
  m.impl("mix_", mix_in_place<mix_into>);
  m.impl("mix_into", mix_into);
  m.impl("augment_into", augment_into);
  m.impl("label_weight", label_weight);
  m.impl("quadratic_value", quadratic_value);
  m.impl("add_quadratic_gradient_", add_quadratic_gradient_);
}

}  // namespace ftbench
