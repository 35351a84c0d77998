// A penalty whose anchors and weights stay on this side of Python, where gradients are found as well:
// handing over four lists of tensors at every call takes longer than a GPU needs for a small model.
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/zeros_like.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include "call.h"

namespace ftbench {
namespace {

using at::Tensor;

using AddGradient = Tensor(at::TensorList, const OptionalTensors&, const OptionalTensors&,
                           at::ArrayRef<double>, at::TensorList, at::IntArrayRef, double);

// The operator for whatever the tensors are: through the dispatcher, as from Python.
const c10::TypedOperatorHandle<AddGradient>& add_quadratic_gradient() {
  static const auto found = c10::Dispatcher::singleton()
                                .findSchemaOrThrow("ftbench::add_quadratic_gradient_", "")
                                .typed<AddGradient>();
  return found;
}

// Parameters stay Python's: a module that is converted may swap what they stand for, which it
// refuses where somebody else holds it.
struct BoundPenalty : torch::CustomClassHolder {
  BoundPenalty(OptionalTensors anchors, OptionalTensors weights, std::vector<double> strength)
      : anchors_(std::move(anchors)), weights_(std::move(weights)),
        strength_(std::move(strength)) {}

  // The value; none, and nothing done, where parameters lie on several devices. A parameter that
  // does not require a gradient gets none; where there is none yet, it is made.
  std::optional<Tensor> add_gradient_(std::vector<Tensor> parameters, double scale) {
    std::vector<Tensor> gradients;
    std::vector<int64_t> trained;
    gradients.reserve(parameters.size());
    trained.reserve(parameters.size());
    for (const Tensor& parameter : parameters) {
      if (parameter.device() != parameters[0].device()) return std::nullopt;
    }
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (!parameters[i].requires_grad()) continue;
      Tensor& gradient = parameters[i].mutable_grad();
      if (!gradient.defined()) gradient = at::zeros_like(parameters[i]);
      gradients.push_back(gradient);
      trained.push_back(static_cast<int64_t>(i));
    }
    return add_quadratic_gradient().call(parameters, anchors_, weights_, strength_, gradients,
                                         trained, scale);
  }

 private:
  OptionalTensors anchors_, weights_;
  std::vector<double> strength_;
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(ftbench, m) {
  m.class_<BoundPenalty>("QuadraticPenalty")
      .def(torch::init<OptionalTensors, OptionalTensors, std::vector<double>>())
      .def("add_gradient_", &BoundPenalty::add_gradient_);
}

}  // namespace ftbench
