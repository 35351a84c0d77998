// What both operators ask of tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <utility>
#include <vector>

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

}  // namespace ftbench
