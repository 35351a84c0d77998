// The operators: schemas, and what the dispatcher calls for the CPU and for shapes alone. A CUDA
// build adds cuda.cpp.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include <string>
#include <vector>

#include "augment/call.h"
#include "cpu.h"
#include "mix/call.h"
#include "penalty/call.h"

namespace ftbench {
namespace {

using at::Tensor;
using Doubles = at::ArrayRef<double>;

void mix_into(const Tensor& images, const Tensor& partner, const Tensor& weight, const Tensor& box,
              Doubles mean, Doubles std, Tensor& out) {
  const MixCall call(images, partner, weight, box, mean, std, out);
  if (call.empty) return;
  mix_on_cpu(call.mix);
  call.finish(out);
}

void augment_into(const Tensor& store, const Tensor& rows, const Tensor& crop, const Tensor& flip,
                  const OptionalTensor& partner, const OptionalTensor& weight,
                  const OptionalTensor& box, Doubles mean, Doubles std, Tensor& out) {
  const AugmentCall call(store, rows, crop, flip, partner, weight, box, mean, std, out);
  if (call.empty) return;
  augment_on_cpu(call.augment);
  call.finish(out);
}

Tensor label_weight(const Tensor& weight, const Tensor& box, int64_t height, int64_t width) {
  const LabelCall call(weight, box, height, width);
  const float* weights = call.weight.const_data_ptr<float>();
  const int32_t* boxes = call.box.const_data_ptr<int32_t>();
  float* out = call.out.mutable_data_ptr<float>();
  for (int64_t i = 0; i < call.out.numel(); ++i) {
    out[i] = label_weight_of(weights[i], boxes + 4 * i, height, width);
  }
  return call.out;
}

Tensor add_quadratic_gradient_(at::TensorList parameters, const OptionalTensors& anchors,
                               const OptionalTensors& weights, Doubles strength,
                               at::TensorList gradients, at::IntArrayRef trained, double scale) {
  const PenaltyCall call(parameters, anchors, weights, strength, gradients, trained);
  const double value = penalty_on_cpu(call, scale);
  call.finish(gradients);
  return call.make_value(parameters, value);
}

Tensor quadratic_value(at::TensorList parameters, const OptionalTensors& anchors,
                       const OptionalTensors& weights, Doubles strength) {
  const PenaltyCall call(parameters, anchors, weights, strength, {}, {});
  return call.make_value(parameters, penalty_on_cpu(call, 0.0));
}

// Shapes alone. Tensors with data beside them are a mistake that would otherwise pass unseen.
void check_without_data(const char* name, const Tensor& tensor) {
  TORCH_CHECK_VALUE(tensor.is_meta(), name, " is on ", tensor.device(), ", others on meta");
}
void check_plan(const Tensor& images, const Tensor& partner, const Tensor& weight,
                const Tensor& box) {
  check_without_data("images", images);
  check_without_data("plan.partner", partner);
  check_without_data("plan.weight", weight);
  check_without_data("plan.box", box);
}

Tensor mix_meta(const Tensor& images, const Tensor& partner, const Tensor& weight,
                const Tensor& box, Doubles, Doubles, at::ScalarType dtype) {
  check_plan(images, partner, weight, box);
  return empty_mixed(images, dtype);
}
void mix_into_meta(const Tensor& images, const Tensor& partner, const Tensor& weight,
                   const Tensor& box, Doubles, Doubles, Tensor& out) {
  check_plan(images, partner, weight, box);
  check_without_data("out", out);
}
void mix_in_place_meta(Tensor& images, const Tensor& partner, const Tensor& weight,
                       const Tensor& box, Doubles, Doubles) {
  check_plan(images, partner, weight, box);
}

void augment_into_meta(const Tensor& store, const Tensor& rows, const Tensor& crop,
                       const Tensor& flip, const OptionalTensor& partner,
                       const OptionalTensor& weight, const OptionalTensor& box, Doubles, Doubles,
                       Tensor& out) {
  check_without_data("store", store);
  check_without_data("rows", rows);
  check_without_data("plan.crop", crop);
  check_without_data("plan.flip", flip);
  if (partner) check_without_data("mix.partner", *partner);
  if (weight) check_without_data("mix.weight", *weight);
  if (box) check_without_data("mix.box", *box);
  check_without_data("out", out);
}

Tensor label_weight_meta(const Tensor& weight, const Tensor& box, int64_t, int64_t) {
  check_without_data("plan.weight", weight);
  check_without_data("plan.box", box);
  return at::empty_symint(weight.sym_sizes(), weight.options());
}

Tensor add_quadratic_gradient_meta(at::TensorList parameters, const OptionalTensors& anchors,
                                   const OptionalTensors& weights, Doubles,
                                   at::TensorList gradients, at::IntArrayRef, double) {
  bool in_double = !parameters.empty();
  for (const Tensor& each : parameters) {
    check_without_data("parameters", each);
    in_double = in_double && each.scalar_type() == at::kDouble;
  }
  for (const Tensor& each : gradients) check_without_data("gradients", each);
  for (const auto* list : {&anchors, &weights}) {
    for (const std::optional<Tensor> each : *list) {
      if (each) check_without_data(list == &anchors ? "anchors" : "weights", *each);
    }
  }
  return at::empty({}, at::TensorOptions(at::kMeta).dtype(in_double ? at::kDouble : at::kFloat));
}
Tensor quadratic_value_meta(at::TensorList parameters, const OptionalTensors& anchors,
                            const OptionalTensors& weights, Doubles strength) {
  return add_quadratic_gradient_meta(parameters, anchors, weights, strength, {}, {}, 0.0);
}

}  // namespace

TORCH_LIBRARY(ftbench, m) {
  const auto define = [&m](const std::string& schema) {
    m.def(schema.c_str(), {at::Tag::pt2_compliant_tag});
  };
  const std::string plan = "Tensor partner, Tensor weight, Tensor box, float[] mean, float[] std";
  const std::string terms =
      "Tensor[] parameters, Tensor?[] anchors, Tensor?[] weights, float[] strength";
  const std::string trained = "Tensor(a!)[] gradients, int[] trained, float scale";
  define("mix(Tensor images, " + plan + ", ScalarType dtype) -> Tensor");
  define("mix_(Tensor(a!) images, " + plan + ") -> ()");
  define("mix_into(Tensor images, " + plan + ", Tensor(a!) out) -> ()");
  define(
      "augment_into(Tensor store, Tensor rows, Tensor crop, Tensor flip, Tensor? partner, "
      "Tensor? weight, Tensor? box, float[] mean, float[] std, Tensor(a!) out) -> ()");
  define("label_weight(Tensor weight, Tensor box, int height, int width) -> Tensor");
  define("quadratic_value(" + terms + ") -> Tensor");
  define("add_quadratic_gradient_(" + terms + ", " + trained + ") -> Tensor");
}

TORCH_LIBRARY_IMPL(ftbench, CPU, m) {
  m.impl("mix", mix_new<mix_into>);
  m.impl("mix_", mix_in_place<mix_into>);
  m.impl("mix_into", mix_into);
  m.impl("augment_into", augment_into);
  m.impl("label_weight", label_weight);
  m.impl("quadratic_value", quadratic_value);
  m.impl("add_quadratic_gradient_", add_quadratic_gradient_);
}

TORCH_LIBRARY_IMPL(ftbench, Meta, m) {
  m.impl("mix", mix_meta);
  m.impl("mix_", mix_in_place_meta);
  m.impl("mix_into", mix_into_meta);
  m.impl("augment_into", augment_into_meta);
  m.impl("label_weight", label_weight_meta);
  m.impl("quadratic_value", quadratic_value_meta);
  m.impl("add_quadratic_gradient_", add_quadratic_gradient_meta);
}

}  // namespace ftbench

// What this was built from and for; ftbench/ops/build.py reads it in the file before loading it.
#define FTBENCH_TEXT(token) #token
#define FTBENCH_TEXT_OF(macro) FTBENCH_TEXT(macro)
extern "C" __attribute__((used)) const char ftbench_stamp[] =
    "ftbench-stamp:" FTBENCH_TEXT_OF(FTBENCH_STAMP) ":";

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "ftbench's compiled operators, registered as torch.ops.ftbench.";
  m.attr("stamp") = FTBENCH_TEXT_OF(FTBENCH_STAMP);
  m.def("instruction_set", [] { return ftbench::kernels().name; },
        "The instruction set of the kernels in use.");
  m.def("instruction_sets", &ftbench::instruction_sets,
        "What this processor has kernels for, lowest first.");
  m.def("use_instruction_set", &ftbench::use_instruction_set,
        "Choose the kernels; ValueError where the processor lacks the set.");
  m.def("last_cache_bytes", &ftbench::last_cache_bytes,
        "This process's share of the last cache; batches half as large again are written past it.");
  m.def("usable_cores", &ftbench::usable_cores,
        "The cores that this process may use, by its affinity and its container's quota.");
  m.def("quota_cores", &ftbench::quota_cores,
        "The cores that a file of a container's quota allows, 0 where it sets none.");
  m.def("cache_share", &ftbench::cache_share,
        "The share that so many cores have of a cache that is reported with so many bytes.");
  m.def("set_last_cache_bytes", &ftbench::set_last_cache_bytes);
}
