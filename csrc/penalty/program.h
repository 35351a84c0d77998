// What one GPU thread does for a quadratic penalty: the kernels in penalty/cuda.cu, which tests run
// on the CPU as well.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "penalty.h"

namespace ftbench {

constexpr int kPenaltyThreads = 512;
// Groups of threads that share a block of the sum: enough of them to keep a large GPU busy.
constexpr int64_t kGroupsPerBlock = 4;

struct alignas(16) Four {
  float at[4];
};

// Whether all that a sum is of can be read by sixteen bytes; a gradient, which is not, must not
// change the sum's order.
FTBENCH_SHARED bool on_sixteen_bytes(const Term& term) {
  return ((reinterpret_cast<uintptr_t>(term.parameter) |
           reinterpret_cast<uintptr_t>(term.anchor) | reinterpret_cast<uintptr_t>(term.weights)) &
          15) == 0;
}

template <class Real>
FTBENCH_SHARED Real read_number(const void* p, Number type, int64_t i) {
  switch (type) {
    case Number::kHalf:
      return static_cast<Real>(static_cast<float>(static_cast<const c10::Half*>(p)[i]));
    case Number::kBFloat16:
      return static_cast<Real>(static_cast<float>(static_cast<const c10::BFloat16*>(p)[i]));
    case Number::kDouble:
      return static_cast<Real>(static_cast<const double*>(p)[i]);
    default:
      return static_cast<Real>(static_cast<const float*>(p)[i]);
  }
}

template <class Real>
FTBENCH_SHARED void add_to(void* p, Number type, int64_t i, Real a) {
  const Real sum = read_number<Real>(p, type, i) + a;
  switch (type) {
    case Number::kHalf:
      static_cast<c10::Half*>(p)[i] = static_cast<float>(sum);
      break;
    case Number::kBFloat16:
      static_cast<c10::BFloat16*>(p)[i] = static_cast<float>(sum);
      break;
    case Number::kDouble:
      static_cast<double*>(p)[i] = sum;
      break;
    default:
      static_cast<float*>(p)[i] = static_cast<float>(sum);
  }
}

template <class Real>
FTBENCH_SHARED double add_element(const Term& term, int64_t i, Real scale) {
  Real gap = read_number<Real>(term.parameter, term.parameter_type, i);
  if (term.anchor) gap -= read_number<Real>(term.anchor, term.anchor_type, i);
  const Real pull = (term.weights ? read_number<Real>(term.weights, term.weights_type, i)
                                  : static_cast<Real>(term.strength)) *
                    gap;
  if (term.gradient) add_to<Real>(term.gradient, term.gradient_type, i, scale * pull);
  return static_cast<double>(pull * gap);
}

// Sixteen bytes of each array at a time.
FTBENCH_SHARED double add_fours(const Term& term, int64_t begin, int64_t end, int thread,
                                float scale) {
  const float* parameter = static_cast<const float*>(term.parameter);
  const float* anchor = static_cast<const float*>(term.anchor);
  const float* weights = static_cast<const float*>(term.weights);
  float* gradient = static_cast<float*>(term.gradient);
  const float strength = static_cast<float>(term.strength);
  const bool whole = (reinterpret_cast<uintptr_t>(gradient) & 15) == 0;
  double sum = 0.0;
#if defined(__CUDA_ARCH__)
#pragma unroll 4
#endif
  for (int64_t i = begin + 4 * thread; i + 4 <= end; i += 4 * kPenaltyThreads) {
    const Four theta = *reinterpret_cast<const Four*>(parameter + i);
    const Four start = anchor ? *reinterpret_cast<const Four*>(anchor + i) : Four{};
    const Four factor = weights ? *reinterpret_cast<const Four*>(weights + i)
                                : Four{{strength, strength, strength, strength}};
    Four total = gradient && whole ? *reinterpret_cast<const Four*>(gradient + i) : Four{};
    for (int j = 0; j < 4; ++j) {
      const float gap = theta.at[j] - start.at[j];
      const float pull = factor.at[j] * gap;
      sum += static_cast<double>(pull * gap);
      if (gradient && !whole) gradient[i + j] += scale * pull;
      total.at[j] += scale * pull;
    }
    if (gradient && whole) *reinterpret_cast<Four*>(gradient + i) = total;
  }
  return sum;
}

// One thread's part of Σ s (θ − a)² in a group's part of a block.
FTBENCH_SHARED double add_group_part(const Term& term, int64_t block, int64_t group, int thread,
                                     double scale) {
  constexpr int64_t kShare = kBlock / kGroupsPerBlock;
  const int64_t begin = block * kBlock + group * kShare;
  const int64_t end = begin + kShare < term.size ? begin + kShare : term.size;
  if (begin >= end) return 0.0;
  double sum = 0.0;
  int64_t rest = begin;
  if (all_are(term, Number::kFloat) && on_sixteen_bytes(term)) {
    sum = add_fours(term, begin, end, thread, static_cast<float>(scale));
    rest = end - (end - begin) % 4;
  }
  const bool in_double = term.parameter_type == Number::kDouble;
  for (int64_t i = rest + thread; i < end; i += kPenaltyThreads) {
    sum += in_double ? add_element<double>(term, i, scale)
                     : add_element<float>(term, i, static_cast<float>(scale));
  }
  return sum;
}

}  // namespace ftbench
