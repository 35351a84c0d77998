// One block of a quadratic penalty, for one instruction set. Included by compile.h inside that
// set's namespace.

inline Vector load_number(const void* p, Number type, int64_t i, int64_t count) {
  switch (type) {
    case Number::kHalf:
      return load_part(static_cast<const c10::Half*>(p) + i, count);
    case Number::kBFloat16:
      return load_part(static_cast<const c10::BFloat16*>(p) + i, count);
    default:
      return load_part(static_cast<const float*>(p) + i, count);
  }
}

inline void add_number(void* p, Number type, int64_t i, int64_t count, Vector a) {
  const Vector sum = load_number(p, type, i, count) + a;
  switch (type) {
    case Number::kHalf:
      return store_part(static_cast<c10::Half*>(p) + i, sum, count);
    case Number::kBFloat16:
      return store_part(static_cast<c10::BFloat16*>(p) + i, sum, count);
    default:
      return store_part(static_cast<float*>(p) + i, sum, count);
  }
}

// The running sums' total, always in one order.
inline double total(const Sum& sum) {
  double lanes[kLanes];
  sum.read(lanes);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// Half a page ahead in each of the three or four arrays, where the processor needs to be told.
constexpr int64_t kPenaltyAhead = 512;

// All in float32, the common case.
template <bool kPrefetch, bool kAnchor, bool kWeights, bool kGradient>
double float_block(const Term& term, int64_t begin, int64_t end, float scale) {
  // Copies in registers: nothing that is written can change them.
  const float* const parameter = static_cast<const float*>(term.parameter);
  const float* const anchor = static_cast<const float*>(term.anchor);
  const float* const weights = static_cast<const float*>(term.weights);
  float* const gradient = static_cast<float*>(term.gradient);
  const Vector strength = fill(static_cast<float>(term.strength)), factor = fill(scale);
  Sum sum;
  sum.clear();
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    if constexpr (kPrefetch) {
      const int64_t ahead = i + kPenaltyAhead;
      prefetch(parameter + ahead);
      if constexpr (kAnchor) prefetch(anchor + ahead);
      if constexpr (kWeights) prefetch(weights + ahead);
      if constexpr (kGradient) prefetch_to_write(gradient + ahead);
    }
    Vector gap = load(parameter + i);
    if constexpr (kAnchor) gap = gap - load(anchor + i);
    Vector pull = strength * gap;
    if constexpr (kWeights) pull = load(weights + i) * gap;
    sum.add(pull * gap);
    if constexpr (kGradient) store(gradient + i, load(gradient + i) + factor * pull);
  }
  if (const int64_t count = end - i; count > 0) {
    Vector gap = load_part(parameter + i, count);
    if constexpr (kAnchor) gap = gap - load_part(anchor + i, count);
    Vector pull = strength * gap;
    if constexpr (kWeights) pull = load_part(weights + i, count) * gap;
    // Zero times an infinite strength is no number.
    sum.add(keep_first(pull * gap, count));
    if constexpr (kGradient) {
      store_part(gradient + i, load_part(gradient + i, count) + factor * pull, count);
    }
  }
  return total(sum);
}

// Any mixture of precisions up to float32, computed in float32.
inline double mixed_block(const Term& term, int64_t begin, int64_t end, float scale) {
  const Vector factor = fill(scale);
  Sum sum;
  sum.clear();
  for (int64_t i = begin; i < end; i += kLanes) {
    const int64_t count = end - i < kLanes ? end - i : kLanes;
    Vector gap = load_number(term.parameter, term.parameter_type, i, count);
    if (term.anchor) gap = gap - load_number(term.anchor, term.anchor_type, i, count);
    const Vector weights = term.weights
                               ? load_number(term.weights, term.weights_type, i, count)
                               : fill(static_cast<float>(term.strength));
    const Vector pull = weights * gap;
    sum.add(keep_first(pull * gap, count));
    if (term.gradient) {
      add_number(term.gradient, term.gradient_type, i, count, factor * pull);
    }
  }
  return total(sum);
}

// float64 throughout.
inline double double_block(const Term& term, int64_t begin, int64_t end, double scale) {
  const double* parameter = static_cast<const double*>(term.parameter);
  const double* anchor = static_cast<const double*>(term.anchor);
  const double* weights = static_cast<const double*>(term.weights);
  double* gradient = static_cast<double*>(term.gradient);
  double sum = 0.0;
  for (int64_t i = begin; i < end; ++i) {
    const double gap = anchor ? parameter[i] - anchor[i] : parameter[i];
    const double pull = (weights ? weights[i] : term.strength) * gap;
    sum += pull * gap;
    if (gradient) gradient[i] += scale * pull;
  }
  return sum;
}

// Calls `next` with one more constant: whether `present`.
template <class Next>
FTBENCH_INLINE double choose(bool present, Next next) {
  return present ? next(std::true_type{}) : next(std::false_type{});
}

inline double float_block_of(const Term& term, int64_t begin, int64_t end, float scale) {
  return choose(prefetch_pays(), [&](auto ahead) {
    return choose(term.anchor, [&](auto anchor) {
      return choose(term.weights, [&](auto weights) {
        return choose(term.gradient, [&](auto gradient) {
          return float_block<ahead, anchor, weights, gradient>(term, begin, end, scale);
        });
      });
    });
  });
}

double penalty_block(const Term& term, int64_t begin, int64_t end, double scale) {
  if (all_are(term, Number::kDouble)) return double_block(term, begin, end, scale);
  const float factor = static_cast<float>(scale);
  return all_are(term, Number::kFloat) ? float_block_of(term, begin, end, factor)
                                       : mixed_block(term, begin, end, factor);
}
