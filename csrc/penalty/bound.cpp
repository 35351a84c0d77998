// A penalty whose tensors stay on this side of Python: handing over four lists of a model's tensors
// takes longer at every call than a GPU needs for a small model.
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

struct BoundPenalty : torch::CustomClassHolder {
  BoundPenalty(std::vector<Tensor> parameters, OptionalTensors anchors, OptionalTensors weights,
               std::vector<double> strength)
      : parameters_(std::move(parameters)), anchors_(std::move(anchors)),
        weights_(std::move(weights)), strength_(std::move(strength)) {}

  // The value; none, and nothing done, where parameters lie on several devices. A parameter that
  // does not require a gradient gets none; where there is none yet, it is made.
  std::optional<Tensor> add_gradient_(double scale) {
    std::vector<Tensor> gradients;
    std::vector<int64_t> trained;
    gradients.reserve(parameters_.size());
    trained.reserve(parameters_.size());
    for (const Tensor& parameter : parameters_) {
      if (parameter.device() != parameters_[0].device()) return std::nullopt;
    }
    for (size_t i = 0; i < parameters_.size(); ++i) {
      if (!parameters_[i].requires_grad()) continue;
      Tensor& gradient = parameters_[i].mutable_grad();
      if (!gradient.defined()) gradient = at::zeros_like(parameters_[i]);
      gradients.push_back(gradient);
      trained.push_back(static_cast<int64_t>(i));
    }
    return add_quadratic_gradient().call(parameters_, anchors_, weights_, strength_, gradients,
                                         trained, scale);
  }

 private:
  std::vector<Tensor> parameters_;
  OptionalTensors anchors_, weights_;
  std::vector<double> strength_;
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(ftbench, m) {
  m.class_<BoundPenalty>("QuadraticPenalty")
      .def(torch::init<std::vector<Tensor>, OptionalTensors, OptionalTensors,
                       std::vector<double>>())
      .def("add_gradient_", &BoundPenalty::add_gradient_);
}

}  // namespace ftbench
