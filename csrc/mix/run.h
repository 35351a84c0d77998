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
  for (int64_t i = 0; i < pattern.period * kLanes; ++i) {
    const int64_t channel = first + i % depth;
    const Share part = mix.scale ? share(weight, mix.scale[channel], mix.shift[channel])
                                 : share(weight, 1.0f, 0.0f);
    pattern.own[i] = part.own;
    pattern.other[i] = part.other;
    pattern.scale[i] = part.scale;
    pattern.shift[i] = part.shift;
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

  static __attribute__((noinline)) void write(const Run<In, Out>& given, const Pattern& pattern,
                                              Route route) {
    const Run<In, Out> run = given;  // in registers: what is written cannot change it
    int64_t i = 0;
    if constexpr (kPeriod >= 0) {
      Shares part[kRepeat];
      for (int v = 0; v < kRepeat; ++v) part[v] = shares_at(pattern, v);
      if (pattern.uniform && route == Route::kPast && !aligned(run.out) && run.size >= kUnit) {
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
