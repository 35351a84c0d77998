// What one GPU thread does for a quadratic penalty: the kernels in penalty/cuda.cu, which tests run
// on the CPU as well.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "../pack.h"
#include "penalty.h"

namespace ftbench {

constexpr int kPenaltyThreads = 512;
// Groups of threads that share a block of the sum: enough of them to keep a large GPU busy.
constexpr int64_t kGroupsPerBlock = 4;

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

using Four = Pack<float, 4>;

// Whether four floats of the array can be moved together.
FTBENCH_SHARED bool holds_fours(const void* p, Number type) {
  const uintptr_t bytes = type == Number::kFloat ? 16 : 8;
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}
// Whether all that a sum is of can be read by fours; a gradient, which is not, must not change the
// sum's order.
FTBENCH_SHARED bool holds_fours(const Term& term) {
  return term.parameter_type != Number::kDouble &&
         holds_fours(term.parameter, term.parameter_type) &&
         holds_fours(term.anchor, term.anchor_type) && holds_fours(term.weights, term.weights_type);
}

// Four floats as they lie in memory: loaded first and widened when all are on their way.
using Raw = Pack<uint32_t, 4>;

template <bool kFloats>
FTBENCH_SHARED Raw read_raw(const void* p, Number type, int64_t i) {
  if (kFloats || type == Number::kFloat) {
    return load_pack<uint32_t, 4>(static_cast<const uint32_t*>(p) + i);
  }
  const auto* const at = reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(p) + i);
  const auto half = load_pack<uint32_t, 2>(at);
  return {{half.at[0], half.at[1], 0, 0}};
}

template <class T>
FTBENCH_SHARED Four widened(const Raw& raw) {
  T narrow[4];
  memcpy(narrow, raw.at, sizeof narrow);
  Four four;
  for (int j = 0; j < 4; ++j) four.at[j] = static_cast<float>(narrow[j]);
  return four;
}
template <bool kFloats>
FTBENCH_SHARED Four widened(const Raw& raw, Number type) {
  if (!kFloats && type == Number::kHalf) return widened<c10::Half>(raw);
  if (!kFloats && type == Number::kBFloat16) return widened<c10::BFloat16>(raw);
  return widened<float>(raw);
}

template <class T>
FTBENCH_SHARED void write_narrowed(void* p, int64_t i, const Four& four) {
  Pack<T, 4> written;
  for (int j = 0; j < 4; ++j) written.at[j] = static_cast<T>(four.at[j]);
  store_pack(static_cast<T*>(p) + i, written);
}
template <bool kFloats>
FTBENCH_SHARED void write_four(void* p, Number type, int64_t i, const Four& four) {
  if (!kFloats && type == Number::kHalf) return write_narrowed<c10::Half>(p, i, four);
  if (!kFloats && type == Number::kBFloat16) return write_narrowed<c10::BFloat16>(p, i, four);
  write_narrowed<float>(p, i, four);
}

// Four floats of each array at a time: all in float32, or any mixture of precisions up to it.
template <bool kFloats>
FTBENCH_SHARED double add_fours(const Term& term, int64_t begin, int64_t end, int thread,
                                float scale) {
  const void *const parameter = term.parameter, *const anchor = term.anchor;
  const void* const weights = term.weights;
  void* const gradient = term.gradient;
  const Number parameter_type = term.parameter_type, anchor_type = term.anchor_type;
  const Number weights_type = term.weights_type, gradient_type = term.gradient_type;
  const float strength = static_cast<float>(term.strength);
  const bool whole = gradient && holds_fours(gradient, gradient_type);
  double sum = 0.0;
#if defined(__CUDA_ARCH__)
#pragma unroll(kFloats ? 4 : 1)
#endif
  for (int64_t i = begin + 4 * thread; i + 4 <= end; i += 4 * kPenaltyThreads) {
    Raw raw_start{}, raw_factor{}, raw_total{};
    const Raw raw_theta = read_raw<kFloats>(parameter, parameter_type, i);
    if (anchor) raw_start = read_raw<kFloats>(anchor, anchor_type, i);
    if (weights) raw_factor = read_raw<kFloats>(weights, weights_type, i);
    if (whole) raw_total = read_raw<kFloats>(gradient, gradient_type, i);
    const Four theta = widened<kFloats>(raw_theta, parameter_type);
    const Four start = widened<kFloats>(raw_start, anchor_type);
    const Four factor = weights ? widened<kFloats>(raw_factor, weights_type)
                                : Four{{strength, strength, strength, strength}};
    Four total = widened<kFloats>(raw_total, gradient_type);
    for (int j = 0; j < 4; ++j) {
      const float gap = theta.at[j] - start.at[j];
      const float pull = factor.at[j] * gap;
      sum += static_cast<double>(pull * gap);
      if (gradient && !whole) {
        add_to(gradient, kFloats ? Number::kFloat : gradient_type, i + j, scale * pull);
      }
      total.at[j] += scale * pull;
    }
    if (whole) write_four<kFloats>(gradient, gradient_type, i, total);
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
  if (holds_fours(term)) {
    const float factor = static_cast<float>(scale);
    sum = all_are(term, Number::kFloat) ? add_fours<true>(term, begin, end, thread, factor)
                                        : add_fours<false>(term, begin, end, thread, factor);
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
