// A call for a quadratic penalty with tensors: checked, and as the kernels want it.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "penalty.h"

namespace ftbench {

using OptionalTensors = c10::List<std::optional<at::Tensor>>;

// gradients[k] belongs to parameters[trained[k]]. Raises TypeError, ValueError or IndexError, naming
// the argument, its value and what was expected.
struct PenaltyCall {
  std::vector<Term> terms;
  std::vector<int64_t> starts{0};    // the first block of each term, and their number
  std::vector<int64_t> elements{0};  // the elements before each term, and their number
  bool in_double = true;           // whether the value is float64: every parameter is

  PenaltyCall(at::TensorList parameters, const OptionalTensors& anchors,
              const OptionalTensors& weights, at::ArrayRef<double> strength,
              at::TensorList gradients, at::IntArrayRef trained);
  PenaltyCall(const PenaltyCall&) = delete;
  int64_t blocks() const { return starts.back(); }
  // Where a share of the blocks begins when each has as many elements, give or take a block.
  int64_t first_block(int64_t share, int64_t shares) const;
  at::Tensor empty_value(at::TensorList parameters) const;
  at::Tensor make_value(at::TensorList parameters, double value) const;  // on the CPU
  // Adds to the gradients what could not be added there at once, and tells autograd of the change.
  void finish(at::TensorList gradients) const;

 private:
  void add_term(const at::Tensor& parameter, const at::Tensor& anchor, const at::Tensor& weights,
                double strength, const at::Tensor& gradient);

  // Whether no term adds to the gradient's memory yet; from now on one does.
  bool claim(const at::Tensor& gradient);

  std::map<const char*, const char*> written_;  // where the gradients that terms add to begin and end
  std::vector<at::Tensor> owned_;  // copies that the terms point into
  std::vector<std::pair<at::Tensor, at::Tensor>> late_;  // a gradient, and what to add to it
};

double penalty_on_cpu(const PenaltyCall& call, double scale);

}  // namespace ftbench
