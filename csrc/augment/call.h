// A call to augment with tensors: checked, and as the kernels want it.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "../tensors.h"
#include "augment.h"
#include "program.h"

namespace ftbench {

using OptionalTensor = std::optional<at::Tensor>;

// Raises TypeError, ValueError or IndexError, naming the argument, its value and what was expected.
// `augment` points into the call and its tensors, which outlive the kernels that it is given to.
struct AugmentCall {
  Augment augment{};
  bool empty = false;  // no view to make
  at::Tensor store, rows, crop, flip, target;
  at::Tensor mix[3];  // partner, weight, box
  Scales scales;

  AugmentCall(const at::Tensor& store, const at::Tensor& rows, const at::Tensor& crop,
              const at::Tensor& flip, const OptionalTensor& partner, const OptionalTensor& weight,
              const OptionalTensor& box, at::ArrayRef<double> mean, at::ArrayRef<double> std,
              const at::Tensor& out);
  AugmentCall(const AugmentCall&) = delete;
  // For a GPU, in the kernel's own arguments.
  Normalization normalization() const;
  // Copies to `out` what could not be written there at once, and tells autograd of the change.
  void finish(const at::Tensor& out) const;
};

void augment_on_cpu(const Augment& call);

}  // namespace ftbench
