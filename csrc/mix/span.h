// Writing spans of values, for one instruction set. Included by simd/compile.h in that set's
// namespace.

// What a span of pixels is made of: both images, both but for those pixels whose bit is set, which
// are the partner's, or each pixel from one image, the partner's where its bit is set.
enum class Blend { kBoth, kBothAround, kEither };

// The shares of sixteen lanes at a time, repeated while the channels of a pixel come round.
struct Pattern {
  float *own, *other, *scale, *shift;
  int64_t period;
  bool uniform;  // one channel: the lanes are alike
};

// Sets the shares of a sample with this weight; channels are `depth` neighbours from `first` on.
inline void set_pattern(Pattern& pattern, const Mix& mix, float weight, int64_t first,
                        int64_t depth) {
  const auto part_of = [&](int64_t channel) {
    return mix.scale ? share(weight, mix.scale[channel], mix.shift[channel])
                     : share(weight, 1.0f, 0.0f);
  };
  if (pattern.uniform) {
    const Share part = part_of(first);
    store(pattern.own, fill(part.own));
    store(pattern.other, fill(part.other));
    store(pattern.scale, fill(part.scale));
    store(pattern.shift, fill(part.shift));
    return;
  }
  for (int64_t i = 0, channel = 0; i < pattern.period * kLanes; ++i) {
    const Share part = part_of(first + channel);
    pattern.own[i] = part.own;
    pattern.other[i] = part.other;
    pattern.scale[i] = part.scale;
    pattern.shift[i] = part.shift;
    channel = channel + 1 == depth ? 0 : channel + 1;
  }
}

// `size` values that lie together; bit first_bit + i of `inside` is value i's.
template <class In, class Out>
struct Span {
  const In* own;
  const In* partner;
  Out* out;
  int64_t size;
  const uint8_t* inside;
  int64_t first_bit;
};

// The bits of sixteen values, and some that do not matter.
FTBENCH_INLINE uint32_t bits_at(const uint8_t* bits, int64_t at) {
  const uint8_t* p = bits + (at >> 3);
  const uint32_t word = p[0] | p[1] << 8 | p[2] << 16 | static_cast<uint32_t>(p[3]) << 24;
  return word >> (at & 7);
}

inline void set_bits(uint8_t* bits, int64_t begin, int64_t end) {
  const int64_t first = begin >> 3, last = end >> 3;
  const uint8_t from = static_cast<uint8_t>(0xff << (begin & 7));
  const uint8_t until = static_cast<uint8_t>(0xff >> (8 - (end & 7)));
  if (first == last) {
    bits[first] |= from & until;
    return;
  }
  bits[first] |= from;
  for (int64_t i = first + 1; i < last; ++i) bits[i] = 0xff;
  bits[last] |= until;
}

// Far enough ahead to cover the way to memory; the distance was found by measuring.
constexpr int64_t kAhead = 2048;  // bytes

template <class T>
FTBENCH_INLINE void prefetch_ahead(const T* p) {
  prefetch(reinterpret_cast<const char*>(p) + kAhead);
}

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

// The shares of one vector. kPeriod 0: nothing is normalised.
struct Shares {
  Vector own, other, scale, shift;
};

FTBENCH_INLINE Shares shares_at(const Pattern& pattern, int64_t vector) {
  const int64_t lane = vector * kLanes;
  return {load(pattern.own + lane), load(pattern.other + lane), load(pattern.scale + lane),
          load(pattern.shift + lane)};
}

template <bool kNormalised>
FTBENCH_INLINE Vector alone(Vector value, const Shares& part) {
  if constexpr (kNormalised) return fma(part.scale, value, part.shift);
  return value;
}

template <bool kNormalised, Blend kBlend>
FTBENCH_INLINE Vector mixed(Vector mine, Vector theirs, const Shares& part, uint32_t inside = 0) {
  if constexpr (kBlend == Blend::kBothAround) {
    return select(inside, alone<kNormalised>(theirs, part),
                  mixed<kNormalised, Blend::kBoth>(mine, theirs, part));
  } else if constexpr (kBlend == Blend::kEither) {
    return alone<kNormalised>(select(inside, theirs, mine), part);
  } else {
    if constexpr (kNormalised) return fma(part.own, mine, fma(part.other, theirs, part.shift));
    return part.own * mine + part.other * theirs;
  }
}

// kPeriod 0: not normalised; 1 or 3: vectors until the pattern repeats; -1: any number of them.
template <class In, class Out, bool kPixels, int kPeriod, Blend kBlend>
struct Writer {
  static constexpr bool kNormalised = kPeriod != 0;
  static constexpr int kRepeat = kPeriod > 1 ? kPeriod : 1;
  static constexpr int64_t kUnit = 2 * kRepeat * kLanes;  // pairs fill a line of two-byte numbers

  static FTBENCH_INLINE uint32_t inside(const Span<In, Out>& span, int64_t i) {
    if constexpr (kBlend == Blend::kBoth) return 0;
    return bits_at(span.inside, span.first_bit + i);
  }

  static FTBENCH_INLINE Vector whole(const Span<In, Out>& span, int64_t i, const Shares& part) {
    return mixed<kNormalised, kBlend>(load(span.own + i), load(span.partner + i), part,
                                       inside(span, i));
  }

  static FTBENCH_INLINE void write_part(const Span<In, Out>& span, int64_t i, int64_t count,
                                        const Shares& part) {
    const Vector mine = load_part(span.own + i, count), theirs = load_part(span.partner + i, count);
    store_part(span.out + i, mixed<kNormalised, kBlend>(mine, theirs, part, inside(span, i)), count);
  }

  template <Route kRoute>
  static FTBENCH_INLINE int64_t write_units(const Span<In, Out>& span, int64_t i,
                                            const Shares* part) {
    for (; i + kUnit <= span.size; i += kUnit) {
      for (int v = 0; v < 2 * kRepeat; v += 2) {
        const int64_t at = i + v * kLanes;
        prefetch_ahead(span.partner + at);
        if (sizeof(In) == 4) prefetch_ahead(span.partner + at + kLanes);
        const Vector first = whole(span, at, part[v % kRepeat]);
        const Vector second = whole(span, at + kLanes, part[(v + 1) % kRepeat]);
        put<kRoute, kPixels>(span.out + at, first, second);
      }
    }
    return i;
  }

  // Two results of which the first's partner is the second's own image: it is converted once.
  // Returns how many values were written; the last few are not.
  static __attribute__((noinline)) int64_t write_two(const Span<In, Out>& given,
                                                     const Span<In, Out>& next, const Pattern* patterns,
                                                     Route route) {
    static_assert(kBlend == Blend::kBoth && kPeriod > 0);
    const In *const own = given.own, *const partner = given.partner, *const last = next.partner;
    Out *const out = given.out, *const next_out = next.out;
    const int64_t size = given.size;
    Shares part[2][kRepeat];
    for (int v = 0; v < kRepeat; ++v) {
      for (int k = 0; k < 2; ++k) part[k][v] = shares_at(patterns[k], v);
    }
    const auto write_all = [&](auto past) __attribute__((always_inline)) {
      constexpr Route kRoute = decltype(past)::value ? Route::kPast : Route::kCached;
      int64_t i = 0;
      for (; i + kUnit <= size; i += kUnit) {
        for (int v = 0; v < 2 * kRepeat; v += 2) {
          const int64_t at = i + v * kLanes;
          prefetch_ahead(partner + at);
          prefetch_ahead(last + at);
          const Shares *one = part[0] + v % kRepeat, *two = part[0] + (v + 1) % kRepeat;
          const Vector shared = load(partner + at), also = load(partner + at + kLanes);
          put<kRoute, kPixels>(out + at, mixed<true, kBlend>(load(own + at), shared, *one),
                               mixed<true, kBlend>(load(own + at + kLanes), also, *two));
          one += kRepeat;
          two += kRepeat;
          put<kRoute, kPixels>(next_out + at, mixed<true, kBlend>(shared, load(last + at), *one),
                               mixed<true, kBlend>(also, load(last + at + kLanes), *two));
        }
      }
      return i;
    };
    if (route == Route::kPast && aligned(out) && aligned(next_out)) return write_all(std::true_type{});
    return write_all(std::false_type{});
  }

  static __attribute__((noinline)) void write(const Span<In, Out>& given, const Pattern& pattern,
                                              Route route) {
    const Span<In, Out> span = given;  // in registers: what is written cannot change it
    int64_t i = 0;
    if constexpr (kPeriod >= 0) {
      Shares part[kRepeat];
      for (int v = 0; v < kRepeat; ++v) part[v] = shares_at(pattern, v);
      const bool alike = kPeriod == 0 || pattern.uniform;  // whatever the lane
      if (alike && route == Route::kPast && !aligned(span.out) && span.size >= kUnit) {
        const int64_t start = (64 - reinterpret_cast<uintptr_t>(span.out) % 64) / sizeof(Out);
        while (i < start) {
          const int64_t count = start - i < kLanes ? start - i : kLanes;
          write_part(span, i, count, part[0]);
          i += count;
        }
      }
      i = route == Route::kPast && aligned(span.out + i)
              ? write_units<Route::kPast>(span, i, part)
              : write_units<Route::kCached>(span, i, part);
    }
    for (int64_t v = 0; i < span.size; i += kLanes) {
      const int64_t count = span.size - i < kLanes ? span.size - i : kLanes;
      write_part(span, i, count, shares_at(pattern, v));
      v = v + 1 == pattern.period ? 0 : v + 1;
    }
  }
};

template <Route kRoute>
using RouteTo = std::integral_constant<Route, kRoute>;

// Values that fill a line of a plane.
template <class Out>
constexpr int64_t kLine = 64 / sizeof(Out);

template <class F>
FTBENCH_INLINE void each_plane(F f) {
  f(std::integral_constant<int, 0>{});
  f(std::integral_constant<int, 1>{});
  f(std::integral_constant<int, 2>{});
}

// Pixels of three bytes, to three planes that lie `plane` values apart. Returns how many pixels
// were written; the last few may not be.
template <class Out, bool kNormalised, Blend kBlend>
__attribute__((noinline)) int64_t write_triples(const Span<uint8_t, Out>& given, int64_t plane,
                                                const Pattern* patterns, Route route) {
  constexpr bool kPixels = kNormalised && std::is_same_v<Out, c10::BFloat16>;
  const Span<uint8_t, Out> span = given;
  const Shares part[3] = {shares_at(patterns[0], 0), shares_at(patterns[1], 0),
                          shares_at(patterns[2], 0)};
  const auto write_all = [&](auto past) __attribute__((always_inline)) {
    int64_t i = 0;
    for (; 3 * (i + kLine<Out>) + kTripleSlack <= 3 * span.size; i += kLine<Out>) {
      prefetch_ahead(span.partner + 3 * i);
      each_plane([&](auto channel) __attribute__((always_inline)) {
        constexpr int c = decltype(channel)::value;
        for (int64_t at = i; at < i + kLine<Out>; at += kLanes) {
          const uint32_t inside =
              kBlend == Blend::kBoth ? 0 : bits_at(span.inside, span.first_bit + at);
          const Vector mine = load_plane<c>(span.own + 3 * at);
          const Vector theirs = load_plane<c>(span.partner + 3 * at);
          put<decltype(past)::value, kPixels>(
              span.out + c * plane + at,
              mixed<kNormalised, kBlend>(mine, theirs, part[c], inside));
        }
      });
    }
    return i;
  };
  // Numbers of two bytes are written faster into the caches: half a line at a time past them is slow.
  if constexpr (std::is_same_v<Out, float>) {
    if (route == Route::kPast && aligned(span.out) && plane % kLine<Out> == 0) {
      return write_all(RouteTo<Route::kPast>{});
    }
  }
  return write_all(RouteTo<Route::kCached>{});
}

// As Writer::write_two, for pixels of three bytes and planes.
template <class Out>
__attribute__((noinline)) int64_t write_two_triples(const Span<uint8_t, Out>& given,
                                                    const Span<uint8_t, Out>& next, int64_t plane,
                                                    const Pattern* patterns, Route route) {
  constexpr bool kPixels = std::is_same_v<Out, c10::BFloat16>;
  const uint8_t *const own = given.own, *const partner = given.partner, *const last = next.partner;
  Out *const out = given.out, *const next_out = next.out;
  const int64_t size = given.size;
  Shares part[6];
  for (int c = 0; c < 6; ++c) part[c] = shares_at(patterns[c], 0);
  const auto write_all = [&](auto past) __attribute__((always_inline)) {
    int64_t i = 0;
    for (; 3 * (i + kLine<Out>) + kTripleSlack <= 3 * size; i += kLine<Out>) {
      prefetch_ahead(partner + 3 * i);
      prefetch_ahead(last + 3 * i);
      each_plane([&](auto channel) __attribute__((always_inline)) {
        constexpr int c = decltype(channel)::value;
        for (int64_t at = i; at < i + kLine<Out>; at += kLanes) {
          const Vector shared = load_plane<c>(partner + 3 * at);
          const Vector one = mixed<true, Blend::kBoth>(load_plane<c>(own + 3 * at), shared, part[c]);
          const Vector two =
              mixed<true, Blend::kBoth>(shared, load_plane<c>(last + 3 * at), part[3 + c]);
          put<decltype(past)::value, kPixels>(out + c * plane + at, one);
          put<decltype(past)::value, kPixels>(next_out + c * plane + at, two);
        }
      });
    }
    return i;
  };
  if constexpr (std::is_same_v<Out, float>) {
    if (route == Route::kPast && aligned(out) && aligned(next_out) && plane % kLine<Out> == 0) {
      return write_all(RouteTo<Route::kPast>{});
    }
  }
  return write_all(RouteTo<Route::kCached>{});
}
