// Quadratic penalties: from tensors to what the kernels need.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include "../tensors.h"
#include "call.h"

namespace ftbench {
namespace {

Number number_of(const char* name, int64_t index, at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Number::kFloat;
    case at::kHalf:
      return Number::kHalf;
    case at::kBFloat16:
      return Number::kBFloat16;
    case at::kDouble:
      return Number::kDouble;
    default:
      TORCH_CHECK_TYPE(false, name, "[", index, "] has dtype ", type,
                       ", expected float32, float64, float16 or bfloat16");
  }
}

void check_like(const char* name, int64_t index, const at::Tensor& tensor,
                const at::Tensor& parameter) {
  TORCH_CHECK_VALUE(tensor.sizes() == parameter.sizes(), name, "[", index, "] has shape ",
                    tensor.sizes(), ", expected ", parameter.sizes());
  TORCH_CHECK_VALUE(tensor.device() == parameter.device(), name, "[", index, "] is on ",
                    tensor.device(), ", its parameter on ", parameter.device());
  number_of(name, index, tensor.scalar_type());
}

// Elements in the order of memory are those of the parameter's.
bool lies_alike(const at::Tensor& tensor, const at::Tensor& parameter) {
  return tensor.strides() == parameter.strides() && parameter.is_non_overlapping_and_dense();
}

}  // namespace

PenaltyCall::PenaltyCall(at::TensorList parameters, const OptionalTensors& anchors,
                         const OptionalTensors& weights, at::ArrayRef<double> strength,
                         at::TensorList gradients, at::IntArrayRef trained) {
  const size_t count = parameters.size();
  TORCH_CHECK_VALUE(anchors.size() == count && weights.size() == count && strength.size() == count,
                    "parameters, anchors, weights and strength have ", count, ", ",
                    anchors.size(), ", ", weights.size(), " and ", strength.size(),
                    " elements; expected as many of each");
  TORCH_CHECK_VALUE(gradients.size() == trained.size(), "there are ", gradients.size(),
                    " gradients for ", trained.size(), " trained parameters");
  std::vector<at::Tensor> gradient_of(count);
  for (size_t k = 0; k < trained.size(); ++k) {
    TORCH_CHECK_INDEX(trained[k] >= 0 && trained[k] < static_cast<int64_t>(count), "trained holds ",
                      trained[k], ", expected 0 to ", static_cast<int64_t>(count) - 1);
    TORCH_CHECK_VALUE(!gradient_of[trained[k]].defined(), "trained holds ", trained[k], " twice");
    gradient_of[trained[k]] = gradients[k];
  }
  for (size_t i = 0; i < count; ++i) {
    const at::Tensor& parameter = parameters[i];
    TORCH_CHECK_VALUE(parameter.device() == parameters[0].device(), "parameters[", i, "] is on ",
                      parameter.device(), ", parameters[0] on ", parameters[0].device());
    number_of("parameters", i, parameter.scalar_type());
    const at::Tensor anchor = anchors.get(i).value_or(at::Tensor());
    const at::Tensor weight = weights.get(i).value_or(at::Tensor());
    if (anchor.defined()) check_like("anchors", i, anchor, parameter);
    if (weight.defined()) check_like("weights", i, weight, parameter);
    if (gradient_of[i].defined()) {
      check_like("gradients", i, gradient_of[i], parameter);
      TORCH_CHECK_VALUE(elements_apart(gradient_of[i]), "gradients[", i, "] has strides ",
                        gradient_of[i].strides(),
                        ": several elements would share a single memory location");
    }
    in_double = in_double && parameter.scalar_type() == at::kDouble;
    if (parameter.numel() > 0) add_term(parameter, anchor, weight, strength[i], gradient_of[i]);
  }
  in_double = in_double && count > 0;
}

bool PenaltyCall::claim(const at::Tensor& gradient) {
  if (gradient.numel() == 0) return true;
  const auto [begin, end] = extent(gradient);
  const auto after = written_.lower_bound(begin);
  if (after != written_.end() && after->first < end) return false;
  if (after != written_.begin() && std::prev(after)->second > begin) return false;
  written_.emplace(begin, end);
  return true;
}

void PenaltyCall::add_term(const at::Tensor& given, const at::Tensor& anchor,
                           const at::Tensor& weights, double strength,
                           const at::Tensor& gradient) {
  const auto is_double = [](const at::Tensor& t) {
    return t.defined() && t.scalar_type() == at::kDouble;
  };
  const bool any_double = is_double(given) || is_double(anchor) || is_double(weights);
  // A copy where elements lie otherwise or, in float64, where they are narrower.
  const auto fits = [&](const at::Tensor& t, const at::Tensor& parameter) {
    return lies_alike(t, parameter) && (!any_double || is_double(t));
  };
  at::Tensor parameter = given;
  if (!fits(given, given)) {
    const auto type = any_double ? at::kDouble : given.scalar_type();
    parameter = given.to(type).contiguous();
    owned_.push_back(parameter);
  }
  const auto settle = [&](const at::Tensor& t) {
    if (!t.defined() || fits(t, parameter)) return t;
    const auto type = any_double ? at::kDouble : t.scalar_type();
    owned_.push_back(at::empty_like(parameter, parameter.options().dtype(type)).copy_(t));
    return owned_.back();
  };
  const at::Tensor start = settle(anchor), factor = settle(weights);
  at::Tensor total = gradient;
  // Threads add to all terms at once, so no two may share memory, as those of tied parameters do.
  if (gradient.defined() && (!fits(gradient, parameter) || is_double(gradient) != any_double ||
                             !claim(gradient))) {
    const auto type = any_double ? at::kDouble : at::kFloat;
    total = at::zeros_like(parameter, parameter.options().dtype(type));
    late_.emplace_back(gradient, total);
  }
  const auto type_of = [](const at::Tensor& t) {
    return t.defined() ? number_of("", 0, t.scalar_type()) : Number::kFloat;
  };
  terms.push_back({parameter.const_data_ptr(), start.defined() ? start.const_data_ptr() : nullptr,
                   factor.defined() ? factor.const_data_ptr() : nullptr,
                   total.defined() ? total.mutable_data_ptr() : nullptr, type_of(parameter),
                   type_of(start), type_of(factor), type_of(total), strength, parameter.numel()});
  starts.push_back(starts.back() + blocks_of(parameter.numel()));
  elements.push_back(elements.back() + parameter.numel());
}

at::Tensor PenaltyCall::empty_value(at::TensorList parameters) const {
  at::TensorOptions options;
  if (!parameters.empty()) options = options.device(parameters[0].device());
  return at::empty({}, options.dtype(in_double ? at::kDouble : at::kFloat));
}

at::Tensor PenaltyCall::make_value(at::TensorList parameters, double value) const {
  at::Tensor made = empty_value(parameters);
  if (in_double) {
    *made.mutable_data_ptr<double>() = value;
  } else {
    *made.mutable_data_ptr<float>() = static_cast<float>(value);
  }
  return made;
}

void PenaltyCall::finish(at::TensorList gradients) const {
  for (const auto& [gradient, part] : late_) gradient.add_(part);
  for (const at::Tensor& gradient : gradients) {
    if (!gradient.is_inference()) gradient.unsafeGetTensorImpl()->bump_version();
  }
}

int64_t PenaltyCall::first_block(int64_t share, int64_t shares) const {
  if (share == shares) return blocks();
  const int64_t element = elements.back() / shares * share;
  const int64_t term = term_of(elements.data(), static_cast<int64_t>(terms.size()), element);
  return starts[term] + blocks_of(element - elements[term]);
}

}  // namespace ftbench
