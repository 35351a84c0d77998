// The GPU's kernels and their launches, compiled for the CPU: torch.ops.ftbench_emulated has the
// operators that cuda.cpp has.

// Before any header: fortified, longjmp refuses to go to another stack.
#undef _FORTIFY_SOURCE

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>
#include <mutex>

#define FTBENCH_EMULATION "emulation.h"
#include FTBENCH_EMULATION

#include "augment/call.h"
#include "mix/call.h"
#include "penalty/call.h"
#include "augment/cuda.cu"
#include "mix/cuda.cu"
#include "penalty/cuda.cu"

namespace ftbench::emulated {
namespace {

using at::Tensor;
using Numbers = at::ArrayRef<double>;

std::mutex one_launch_at_a_time;

void check(cudaError_t error) {
  TORCH_CHECK(error == cudaSuccess, "a GPU would have refused the launch");
  TORCH_CHECK(!std::exchange(misaligned, false), "a GPU would have refused an address");
}

void mix_into(const Tensor& images, const Tensor& partner, const Tensor& weight, const Tensor& box,
              Numbers mean, Numbers std, Tensor& out) {
  const std::lock_guard guard(one_launch_at_a_time);
  MixCall call(images, partner, weight, box, mean, std, out);
  if (call.empty) return;
  call.fit_gpu();
  check(launch_mix(call.mix, normalization_of(call.mix), cudaStream_t{}));
  call.finish(out);
}

void augment_into(const Tensor& store, const Tensor& rows, const Tensor& crop, const Tensor& flip,
                  const OptionalTensor& partner, const OptionalTensor& weight,
                  const OptionalTensor& box, Numbers mean, Numbers std, Tensor& out) {
  const std::lock_guard guard(one_launch_at_a_time);
  const AugmentCall call(store, rows, crop, flip, partner, weight, box, mean, std, out);
  if (call.empty) return;
  check(launch_augment(call.augment, call.normalization(), cudaStream_t{}));
  call.finish(out);
}

Tensor label_weight(const Tensor& weight, const Tensor& box, int64_t height, int64_t width) {
  const std::lock_guard guard(one_launch_at_a_time);
  const LabelCall call(weight, box, height, width);
  check(launch_label_weight(call.weight.const_data_ptr<float>(), call.box.const_data_ptr<int32_t>(),
                            call.out.numel(), height, width, call.out.mutable_data_ptr<float>(),
                            cudaStream_t{}));
  return call.out;
}

// The value as it is before it is rounded, so that tests see every bit of a sum.
double add_quadratic_gradient_(at::TensorList parameters, const OptionalTensors& anchors,
                               const OptionalTensors& weights, Numbers strength,
                               at::TensorList gradients, at::IntArrayRef trained, double scale) {
  const std::lock_guard guard(one_launch_at_a_time);
  const PenaltyCall call(parameters, anchors, weights, strength, gradients, trained);
  std::vector<double> partials(call.blocks() * kGroupsPerBlock);
  double value = 0.0;
  check(launch_penalty(call.terms.data(), call.starts.data(),
                       static_cast<int64_t>(call.terms.size()), scale, partials.data(),
                       &value, true, cudaStream_t{}));
  call.finish(gradients);
  return value;
}

void run_blocks_at_ends(int64_t blocks) { blocks_at_ends = blocks; }

}  // namespace

TORCH_LIBRARY(ftbench_emulated, m) {
  m.def("mix_into(Tensor images, Tensor partner, Tensor weight, Tensor box, float[] mean, "
        "float[] std, Tensor(a!) out) -> ()");
  m.def("augment_into(Tensor store, Tensor rows, Tensor crop, Tensor flip, Tensor? partner, "
        "Tensor? weight, Tensor? box, float[] mean, float[] std, Tensor(a!) out) -> ()");
  m.def("label_weight(Tensor weight, Tensor box, int height, int width) -> Tensor");
  m.def("add_quadratic_gradient_(Tensor[] parameters, Tensor?[] anchors, Tensor?[] weights, "
        "float[] strength, Tensor(a!)[] gradients, int[] trained, float scale) -> float");
  m.def("run_blocks_at_ends(int blocks) -> ()", run_blocks_at_ends);
}

TORCH_LIBRARY_IMPL(ftbench_emulated, CPU, m) {
  m.impl("mix_into", mix_into);
  m.impl("augment_into", augment_into);
  m.impl("label_weight", label_weight);
  m.impl("add_quadratic_gradient_", add_quadratic_gradient_);
}

}  // namespace ftbench::emulated
