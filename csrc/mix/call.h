// A call to mix with tensors: checked, and as the kernels want it.
#pragma once

#include <ATen/core/Tensor.h>

#include "../tensors.h"
#include "mix.h"
#include "program.h"

namespace ftbench {

// Whether a dense (B, C, H, W) lies in memory as (B, H, W, C), and not the other way as well.
bool channels_innermost(const at::Tensor& tensor);

// Raises TypeError, ValueError or IndexError, naming the argument, its value and what was expected.
// `mix` points into the call and its tensors, which outlive the kernels that it is given to.
struct MixCall {
  Mix mix{};
  bool empty = false;         // nothing to mix
  at::Tensor source, target;  // dense, and apart unless they are the same
  at::Tensor plan[3];         // dense
  Scales scales;

  MixCall(const at::Tensor& images, const at::Tensor& partner, const at::Tensor& weight,
          const at::Tensor& box, at::ArrayRef<double> mean, at::ArrayRef<double> std,
          const at::Tensor& out);
  MixCall(const MixCall&) = delete;
  // Mixes apart what is in place, but more images than the smallest of slabs has room for.
  void fit_gpu();
  // Copies to `out` what could not be written there at once, and tells autograd of the change.
  void finish(const at::Tensor& out) const;

 private:
  void bind(const at::Tensor& images, const at::Tensor& out);
};

// A call for the labels' weights: checked, and dense.
struct LabelCall {
  at::Tensor weight, box, out;
  int64_t height, width;

  LabelCall(const at::Tensor& weight, const at::Tensor& box, int64_t height, int64_t width);
};

// For a new result: images keep the order of their channels, bytes become (B, C, H, W) in memory too.
at::Tensor empty_mixed(const at::Tensor& images, at::ScalarType dtype);

// The operators mix_ and mix, by the one that fills a buffer.
template <auto kMixInto>
void mix_in_place(at::Tensor& images, const at::Tensor& partner, const at::Tensor& weight,
                  const at::Tensor& box, at::ArrayRef<double> mean, at::ArrayRef<double> std) {
  kMixInto(images, partner, weight, box, mean, std, images);
}
template <auto kMixInto>
at::Tensor mix_new(const at::Tensor& images, const at::Tensor& partner, const at::Tensor& weight,
                   const at::Tensor& box, at::ArrayRef<double> mean, at::ArrayRef<double> std,
                   at::ScalarType dtype) {
  at::Tensor out = empty_mixed(images, dtype);
  kMixInto(images, partner, weight, box, mean, std, out);
  return out;
}

Normalization normalization_of(const Mix& mix);
void mix_on_cpu(const Mix& mix);

}  // namespace ftbench
