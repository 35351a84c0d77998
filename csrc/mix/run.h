// Writing runs of values, for one instruction set. Included by simd/compile.h in that set's
// namespace.

// What a run of pixels is made of: both images, both but for those pixels whose bit is set, which
// are the partner's, or each pixel from one image, the partner's where its bit is set.
enum class Source { kBoth, kBothAround, kEither };

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
struct Run {
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

template <bool kNormalised, Source kSource>
FTBENCH_INLINE Vector mixed(Vector mine, Vector theirs, const Shares& part, uint32_t inside = 0) {
  if constexpr (kSource == Source::kBothAround) {
    return select(inside, alone<kNormalised>(theirs, part),
                  mixed<kNormalised, Source::kBoth>(mine, theirs, part));
  } else if constexpr (kSource == Source::kEither) {
    return alone<kNormalised>(select(inside, theirs, mine), part);
  } else {
    if constexpr (kNormalised) return fma(part.own, mine, fma(part.other, theirs, part.shift));
    return part.own * mine + part.other * theirs;
  }
}

// kPeriod 0: not normalised; 1 or 3: vectors until the pattern repeats; -1: any number of them.
template <class In, class Out, bool kPixels, int kPeriod, Source kSource>
struct Writer {
  static constexpr bool kNormalised = kPeriod != 0;
  static constexpr int kRepeat = kPeriod > 1 ? kPeriod : 1;
  static constexpr int64_t kUnit = 2 * kRepeat * kLanes;  // pairs fill a line of two-byte numbers

  static FTBENCH_INLINE uint32_t inside(const Run<In, Out>& run, int64_t i) {
    if constexpr (kSource == Source::kBoth) return 0;
    return bits_at(run.inside, run.first_bit + i);
  }

  static FTBENCH_INLINE Vector whole(const Run<In, Out>& run, int64_t i, const Shares& part) {
    return mixed<kNormalised, kSource>(load(run.own + i), load(run.partner + i), part,
                                       inside(run, i));
  }

  static FTBENCH_INLINE void write_part(const Run<In, Out>& run, int64_t i, int64_t count,
                                        const Shares& part) {
    const Vector mine = load_part(run.own + i, count), theirs = load_part(run.partner + i, count);
    store_part(run.out + i, mixed<kNormalised, kSource>(mine, theirs, part, inside(run, i)), count);
  }

  template <Route kRoute>
  static FTBENCH_INLINE int64_t write_units(const Run<In, Out>& run, int64_t i,
                                            const Shares* part) {
    for (; i + kUnit <= run.size; i += kUnit) {
      for (int v = 0; v < 2 * kRepeat; v += 2) {
        const int64_t at = i + v * kLanes;
        prefetch_ahead(run.partner + at);
        if (sizeof(In) == 4) prefetch_ahead(run.partner + at + kLanes);
        const Vector first = whole(run, at, part[v % kRepeat]);
        const Vector second = whole(run, at + kLanes, part[(v + 1) % kRepeat]);
        put<kRoute, kPixels>(run.out + at, first, second);
      }
    }
    return i;
  }

  // Two results of which the first's partner is the second's own image: it is converted once.
  // Returns how many values were written; the last few are not.
  static __attribute__((noinline)) int64_t write_two(const Run<In, Out>& given,
                                                     const Run<In, Out>& next, const Pattern* patterns,
                                                     Route route) {
    static_assert(kSource == Source::kBoth && kPeriod > 0);
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
          put<kRoute, kPixels>(out + at, mixed<true, kSource>(load(own + at), shared, *one),
                               mixed<true, kSource>(load(own + at + kLanes), also, *two));
          one += kRepeat;
          two += kRepeat;
          put<kRoute, kPixels>(next_out + at, mixed<true, kSource>(shared, load(last + at), *one),
                               mixed<true, kSource>(also, load(last + at + kLanes), *two));
        }
      }
      return i;
    };
    if (route == Route::kPast && aligned(out) && aligned(next_out)) return write_all(std::true_type{});
    return write_all(std::false_type{});
  }

  static __attribute__((noinline)) void write(const Run<In, Out>& given, const Pattern& pattern,
                                              Route route) {
    const Run<In, Out> run = given;  // in registers: what is written cannot change it
    int64_t i = 0;
    if constexpr (kPeriod >= 0) {
      Shares part[kRepeat];
      for (int v = 0; v < kRepeat; ++v) part[v] = shares_at(pattern, v);
      const bool alike = kPeriod == 0 || pattern.uniform;  // whatever the lane
      if (alike && route == Route::kPast && !aligned(run.out) && run.size >= kUnit) {
        const int64_t start = (64 - reinterpret_cast<uintptr_t>(run.out) % 64) / sizeof(Out);
        while (i < start) {
          const int64_t count = start - i < kLanes ? start - i : kLanes;
          write_part(run, i, count, part[0]);
          i += count;
        }
      }
      i = route == Route::kPast && aligned(run.out + i)
              ? write_units<Route::kPast>(run, i, part)
              : write_units<Route::kCached>(run, i, part);
    }
    for (int64_t v = 0; i < run.size; i += kLanes) {
      const int64_t count = run.size - i < kLanes ? run.size - i : kLanes;
      write_part(run, i, count, shares_at(pattern, v));
      v = v + 1 == pattern.period ? 0 : v + 1;
    }
  }
};

// Pixels of three bytes, to three planes that lie `plane` values apart. Returns how many pixels
// were written; the last few may not be.
template <class Out, bool kNormalised, Source kSource>
__attribute__((noinline)) int64_t write_triples(const Run<uint8_t, Out>& given, int64_t plane,
                                                const Pattern* patterns, Route route) {
  constexpr bool kPixels = kNormalised && std::is_same_v<Out, c10::BFloat16>;
  const Run<uint8_t, Out> run = given;
  const Shares part[3] = {shares_at(patterns[0], 0), shares_at(patterns[1], 0),
                          shares_at(patterns[2], 0)};
  const auto write_all = [&](auto past) __attribute__((always_inline)) {
    int64_t i = 0;
    for (; 3 * (i + kLanes) + kTripleSlack <= 3 * run.size; i += kLanes) {
      prefetch_ahead(run.partner + 3 * i);
      Vector mine[3], theirs[3];
      load_triples(run.own + 3 * i, mine[0], mine[1], mine[2]);
      load_triples(run.partner + 3 * i, theirs[0], theirs[1], theirs[2]);
      const uint32_t inside = kSource == Source::kBoth ? 0 : bits_at(run.inside, run.first_bit + i);
      for (int c = 0; c < 3; ++c) {
        const Vector result = mixed<kNormalised, kSource>(mine[c], theirs[c], part[c], inside);
        if constexpr (decltype(past)::value) {
          stream(run.out + c * plane + i, result);
        } else {
          put<Route::kCached, kPixels>(run.out + c * plane + i, result);
        }
      }
    }
    return i;
  };
  if constexpr (std::is_same_v<Out, float>) {
    if (route == Route::kPast && aligned(run.out) && plane % kLanes == 0) {
      return write_all(std::true_type{});
    }
  }
  return write_all(std::false_type{});
}

// As Writer::write_two, for pixels of three bytes and planes.
template <class Out>
__attribute__((noinline)) int64_t write_two_triples(const Run<uint8_t, Out>& given,
                                                    const Run<uint8_t, Out>& next, int64_t plane,
                                                    const Pattern* patterns, Route route) {
  constexpr bool kPixels = std::is_same_v<Out, c10::BFloat16>;
  const uint8_t *const own = given.own, *const partner = given.partner, *const last = next.partner;
  Out *const out = given.out, *const next_out = next.out;
  const int64_t size = given.size;
  Shares part[6];
  for (int c = 0; c < 6; ++c) part[c] = shares_at(patterns[c], 0);
  const auto write_all = [&](auto past) __attribute__((always_inline)) {
    int64_t i = 0;
    for (; 3 * (i + kLanes) + kTripleSlack <= 3 * size; i += kLanes) {
      prefetch_ahead(partner + 3 * i);
      prefetch_ahead(last + 3 * i);
      Vector first[3], shared[3], third[3];
      load_triples(own + 3 * i, first[0], first[1], first[2]);
      load_triples(partner + 3 * i, shared[0], shared[1], shared[2]);
      load_triples(last + 3 * i, third[0], third[1], third[2]);
      for (int c = 0; c < 3; ++c) {
        const Vector one = mixed<true, Source::kBoth>(first[c], shared[c], part[c]);
        const Vector two = mixed<true, Source::kBoth>(shared[c], third[c], part[3 + c]);
        if constexpr (decltype(past)::value) {
          stream(out + c * plane + i, one);
          stream(next_out + c * plane + i, two);
        } else {
          put<Route::kCached, kPixels>(out + c * plane + i, one);
          put<Route::kCached, kPixels>(next_out + c * plane + i, two);
        }
      }
    }
    return i;
  };
  if constexpr (std::is_same_v<Out, float>) {
    if (route == Route::kPast && aligned(out) && aligned(next_out) && plane % kLanes == 0) {
      return write_all(std::true_type{});
    }
  }
  return write_all(std::false_type{});
}
