// What the operators ask of tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "mix/mix.h"

namespace ftbench {

// Whether no two elements can lie in the same place.
inline bool elements_apart(const at::Tensor& tensor) {
  if (tensor.is_non_overlapping_and_dense()) return true;
  std::vector<std::pair<int64_t, int64_t>> steps;  // stride and size
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) > 1) steps.emplace_back(tensor.stride(i), tensor.size(i));
  }
  std::sort(steps.begin(), steps.end());
  int64_t reach = 0;  // of the finer steps together
  for (const auto& [stride, size] : steps) {
    if (stride <= reach) return false;
    reach += stride * (size - 1);
  }
  return true;
}

// The addresses that the elements of a tensor lie in, which has some.
inline std::pair<const char*, const char*> extent(const at::Tensor& tensor) {
  int64_t last = 0;
  for (int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
  const char* start = static_cast<const char*>(tensor.const_data_ptr());
  return {start, start + (last + 1) * tensor.element_size()};
}

// Whether a (B, C, H, W) is dense in one of the orders that kernels write.
inline bool plain(const at::Tensor& tensor) {
  return tensor.is_contiguous() || tensor.is_contiguous(at::MemoryFormat::ChannelsLast);
}

inline Element element_of(const char* name, at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Element::kFloat;
    case at::kHalf:
      return Element::kHalf;
    case at::kBFloat16:
      return Element::kBFloat16;
    case at::kByte:
      return Element::kByte;
    default:
      TORCH_CHECK_TYPE(false, name, " has dtype ", type,
                       ", expected float32, float16, bfloat16 or uint8");
  }
}
inline Element float_element_of(const char* name, at::ScalarType type) {
  TORCH_CHECK_TYPE(type != at::kByte, name, " has dtype uint8, expected a floating-point one");
  return element_of(name, type);
}

// What indexes memory. On a GPU it was checked when it was made.
inline void check_indices(const char* name, const at::Tensor& tensor, int64_t limit) {
  if (!tensor.is_cpu()) return;
  const int64_t* values = tensor.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    TORCH_CHECK_INDEX(values[i] >= 0 && values[i] < limit, name, " holds ", values[i],
                      ", expected 0 to ", limit - 1);
  }
}

// (v/full − mean)/std as v · scale + shift, one number a channel; none where nothing is normalised.
struct Scales {
  std::vector<float> scale, shift;

  Scales() = default;
  Scales(at::ArrayRef<double> mean, at::ArrayRef<double> std, int64_t channels, double full) {
    TORCH_CHECK_VALUE(mean.size() == std.size(), "normalize has ", mean.size(), " means and ",
                      std.size(), " stds");
    if (mean.empty()) return;
    TORCH_CHECK_VALUE(static_cast<int64_t>(mean.size()) == channels, "normalize has ",
                      mean.size(), " means, the images ", channels, " channels");
    for (size_t c = 0; c < mean.size(); ++c) {
      scale.push_back(static_cast<float>(1.0 / (full * std[c])));
      shift.push_back(static_cast<float>(-mean[c] / std[c]));
    }
  }
  const float* scale_data() const { return scale.empty() ? nullptr : scale.data(); }
  const float* shift_data() const { return shift.empty() ? nullptr : shift.data(); }
};

// Copies to `out` what could not be written there at once, and tells autograd of the change.
inline void hand_over(const at::Tensor& target, const at::Tensor& out) {
  if (!target.is_same(out)) {
    out.copy_(target);
  } else if (!out.is_inference()) {
    out.unsafeGetTensorImpl()->bump_version();
  }
}

}  // namespace ftbench
