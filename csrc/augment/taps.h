// What the pixels of a view are made of along each side, and a crop's rows weighted into one, for one
// instruction set. Included by compile.h.

FTBENCH_INLINE int64_t whole_vectors(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// What makes the pixels along one side: tap by tap, `padded` numbers for each.
struct Taps {
  int32_t* first;   // of each pixel, within the crop; after count_from_bases(), from its vector's base
  int32_t* base;    // of each sixteen pixels: the least first
  float* weights;   // [tap][pixel]
  int64_t count, padded;
};

constexpr int64_t kWindow = 2 * kLanes;  // numbers that one vector of pixels can be picked from

// Whether each sixteen neighbours of a view are made of pixels that lie within one window.
FTBENCH_INLINE bool fits_window(const Side& side) {
  return side.step * (kLanes - 1) + 2.0f * side.reach + 4.0f <= static_cast<float>(kWindow);
}

__attribute__((noinline)) void count_from_bases(Taps& taps, int64_t wanted) {
  for (int64_t x = 0; x < taps.padded; x += kLanes) {
    const int64_t end = x + kLanes < wanted ? x + kLanes : wanted;
    int32_t least = taps.first[x];
    for (int64_t i = x; i < end; ++i) least = taps.first[i] < least ? taps.first[i] : least;
    taps.base[x / kLanes] = least;
    for (int64_t i = x; i < end; ++i) taps.first[i] -= least;
  }
}

__attribute__((noinline)) void set_taps(const Side& side, int64_t wanted, bool flip, int64_t scale,
                                        Taps& taps) {
  taps.padded = whole_vectors(wanted);
  taps.count = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    const Foot foot = foot_of(side, side.centre(i));
    taps.count = foot.count > taps.count ? foot.count : taps.count;
  }
  for (int64_t i = 0; i < taps.padded * taps.count; ++i) taps.weights[i] = 0.0f;
  for (int64_t i = 0; i < taps.padded; ++i) taps.first[i] = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    const float centre = side.centre(i);
    const Foot foot = foot_of(side, centre);
    const int64_t at = flip ? wanted - 1 - i : i;
    float sum = 0.0f;
    for (int32_t k = 0; k < foot.count; ++k) {
      const float weight = weight_at(side, centre, foot.first + k);
      taps.weights[k * taps.padded + at] = weight;
      sum += weight;
    }
    if (sum > 0.0f) {
      for (int32_t k = 0; k < foot.count; ++k) taps.weights[k * taps.padded + at] /= sum;
    } else {
      taps.weights[at] = 1.0f;  // a crop thinner than rounding: its one pixel
    }
    taps.first[at] = static_cast<int32_t>(foot.first * scale);
  }
}

// Rows of a crop, one above the other, weighted into one.
FTBENCH_INLINE void weigh_rows(const uint8_t* top, int64_t stride, const float* weights,
                               int64_t weight_stride, int64_t taps, int64_t values, float* to) {
  const int64_t whole = values / kLanes * kLanes;
  if (taps == 2) {
    const Vector upper = fill(weights[0]), lower = fill(weights[weight_stride]);
    const uint8_t* below = top + stride;
    for (int64_t i = 0; i < whole; i += kLanes) {
      store(to + i, fma(load(below + i), lower, load(top + i) * upper));
    }
  } else {
    for (int64_t i = 0; i < whole; i += kLanes) {
      Vector sum = load(top + i) * fill(weights[0]);
      for (int64_t k = 1; k < taps; ++k) {
        sum = fma(load(top + k * stride + i), fill(weights[k * weight_stride]), sum);
      }
      store(to + i, sum);
    }
  }
  if (whole == values) return;
  Vector sum = load_part(top + whole, values - whole) * fill(weights[0]);
  for (int64_t k = 1; k < taps; ++k) {
    sum = fma(load_part(top + k * stride + whole, values - whole),
              fill(weights[k * weight_stride]), sum);
  }
  store_part(to + whole, sum, values - whole);
}

#ifdef FTBENCH_PICKS
constexpr bool kPicks = true;

// The same of pixels of kChannels bytes, one (kChannel) to a plane of its own.
template <int kChannels, int kChannel>
FTBENCH_INLINE void weigh_sixteen(const uint8_t* top, int64_t stride, const float* weights,
                                  int64_t weight_stride, int64_t taps, float* to) {
  const auto pixels = [](const uint8_t* p) __attribute__((always_inline)) {
    if constexpr (kChannels == 1) return load(p);
    else return load_plane<kChannel>(p);
  };
  Vector sum = pixels(top) * fill(weights[0]);
  for (int64_t k = 1; k < taps; ++k) {
    sum = fma(pixels(top + k * stride), fill(weights[k * weight_stride]), sum);
  }
  store(to, sum);
}
template <int kChannels>
FTBENCH_INLINE void weigh_into_planes(const uint8_t* top, int64_t stride, const float* weights,
                                      int64_t weight_stride, int64_t taps, int64_t pixels,
                                      float* to, int64_t plane) {
  for (int64_t i = 0; i < pixels; i += kLanes) {
    if (i + kLanes > pixels) {
      if (pixels < kLanes) break;
      i = pixels - kLanes;  // the last ones once more
    }
    const uint8_t* from = top + i * kChannels;
    weigh_sixteen<kChannels, 0>(from, stride, weights, weight_stride, taps, to + i);
    if constexpr (kChannels == 3) {
      weigh_sixteen<3, 1>(from, stride, weights, weight_stride, taps, to + plane + i);
      weigh_sixteen<3, 2>(from, stride, weights, weight_stride, taps, to + 2 * plane + i);
    }
  }
  if (pixels >= kLanes) return;
  for (int64_t i = 0; i < pixels * kChannels; ++i) {
    float sum = static_cast<float>(top[i]) * weights[0];
    for (int64_t k = 1; k < taps; ++k) {
      sum += static_cast<float>(top[k * stride + i]) * weights[k * weight_stride];
    }
    to[i % kChannels * plane + i / kChannels] = sum;
  }
}
#else
constexpr bool kPicks = false;
#endif
