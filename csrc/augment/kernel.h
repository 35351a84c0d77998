// Views of images, for one instruction set: a row of the result at a time. Included by compile.h.

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

// A row of all channels, and what it is made of.
struct Viewer {
  const Augment& call;
  Taps down, across;
  float* row;       // weighted rows of the crop: channels innermost, or plane by plane
  float* planes;    // the result's row, plane by plane, `padded` numbers for each
  float* packed;    // the same, channels innermost
  float* views[2];  // whole ones, plane by plane and row by row
  int64_t held[2];  // which image's
  int64_t padded;

  void carve(float* scratch) {
    padded = whole_vectors(call.width);
    const int64_t tall = whole_vectors(call.height);
    const auto ints = [&](int64_t count) {
      int32_t* at = reinterpret_cast<int32_t*>(scratch);
      scratch += count;
      return at;
    };
    const auto floats = [&](int64_t count) {
      float* at = scratch;
      scratch += count;
      return at;
    };
    down.first = ints(tall);
    across.first = ints(padded);
    across.base = ints(whole_vectors(padded / kLanes));
    down.weights = floats(tall * most_taps(call.store_height, call.height));
    across.weights = floats(padded * most_taps(call.store_width, call.width));
    row = floats(row_values(call));
    planes = floats(call.channels * padded);
    packed = floats(whole_vectors(call.channels * call.width));
    if (!call.partner) return;
    for (int i = 0; i < 2; ++i) {
      views[i] = floats(call.channels * call.height * padded);
      held[i] = -1;
    }
  }

  static int64_t plane_values(const Augment& call) {
    return whole_vectors(call.store_width) + kWindow + kLanes;
  }
  static int64_t row_values(const Augment& call) {
    const int64_t beyond = most_taps(call.store_width, call.width) + 1;
    const int64_t within = whole_vectors((call.store_width + beyond) * call.channels);
    const int64_t planes = call.channels * plane_values(call);
    return within > planes ? within : planes;
  }

  // Writes the view of an image row by row; where each goes, `write(y)` says after it is in planes.
  template <class Write>
  FTBENCH_INLINE void view(int64_t image, const Write& write) {
    const float* crop = call.crop + 4 * image;
    const Side vertical = side_of(crop[0], crop[2], call.store_height, call.height);
    const Side horizontal = side_of(crop[1], crop[3], call.store_width, call.width);
    const int64_t channels = call.channels, stride = call.store_width * channels;
    set_taps(vertical, call.height, false, 1, down);
    const bool picks = kPicks && (channels == 1 || channels == 3) && fits_window(horizontal);
    set_taps(horizontal, call.width, call.flip[image], picks ? 1 : channels, across);
    if (picks) count_from_bases(across, call.width);
    const uint8_t* corner =
        call.image(image) + vertical.begin * stride + horizontal.begin * channels;
    const int64_t values = horizontal.pixels * channels;
    // Read by taps of no weight.
    [[maybe_unused]] const int64_t plane = plane_values(call);
    for (int64_t i = picks ? 0 : values; i < row_values(call); ++i) row[i] = 0.0f;
    for (int64_t y = 0; y < call.height; ++y) {
      const float* weights = down.weights + y;
      int64_t taps = down.count;
      // Not beyond the crop, where there may be no memory.
      while (taps > 1 && down.first[y] + taps > vertical.pixels) --taps;
      const uint8_t* top = corner + down.first[y] * stride;
#ifdef FTBENCH_PICKS
      if (picks) {
        const int64_t pixels = horizontal.pixels;
        if (channels == 3) {
          weigh_into_planes<3>(top, stride, weights, down.padded, taps, pixels, row, plane);
        } else {
          weigh_into_planes<1>(top, stride, weights, down.padded, taps, pixels, row, plane);
        }
        pick_columns(plane);
        write(y);
        continue;
      }
#endif
      weigh_rows(top, stride, weights, down.padded, taps, values, row);
      weigh_columns();
      write(y);
    }
  }

#ifdef FTBENCH_PICKS
  FTBENCH_INLINE void pick_columns(int64_t plane) {
    for (int64_t x = 0; x < padded; x += kLanes) {
      const int32_t base = across.base[x / kLanes];
      const int32_t* places = across.first + x;
      for (int64_t c = 0; c < call.channels; ++c) {
        const float* from = row + c * plane + base;
        const Vector low = load(from), high = load(from + kLanes);
        Vector sum = pick(low, high, places, 0) * load(across.weights + x);
        for (int64_t k = 1; k < across.count; ++k) {
          sum = fma(pick(low, high, places, static_cast<int32_t>(k)),
                    load(across.weights + k * padded + x), sum);
        }
        store(planes + c * padded + x, sum);
      }
    }
  }
#endif

  FTBENCH_INLINE void weigh_columns() {
    for (int64_t c = 0; c < call.channels; ++c) {
      float* plane = planes + c * padded;
      if (across.count == 2) {
        const float* left = row + c;
        const float* right = left + call.channels;
        for (int64_t x = 0; x < padded; x += kLanes) {
          const Vector near = gather(left, across.first + x) * load(across.weights + x);
          store(plane + x, fma(gather(right, across.first + x),
                               load(across.weights + padded + x), near));
        }
        continue;
      }
      for (int64_t x = 0; x < padded; x += kLanes) {
        Vector sum = gather(row + c, across.first + x) * load(across.weights + x);
        for (int64_t k = 1; k < across.count; ++k) {
          sum = fma(gather(row + c + k * call.channels, across.first + x),
                    load(across.weights + k * padded + x), sum);
        }
        store(plane + x, sum);
      }
    }
  }

  // Normalises planes and writes them as row `y` of an image of the result.
  template <class T>
  FTBENCH_INLINE void write_row(int64_t image, int64_t y) {
    T* out = static_cast<T*>(call.out);
    if (call.scale) {
      for (int64_t c = 0; c < call.channels; ++c) {
        const Vector scale = fill(call.scale[c]), shift = fill(call.shift[c]);
        float* plane = planes + c * padded;
        if (!call.out_last) {
          T* to = out + offset(false, call.channels, call.pixels(), image, c, y * call.width);
          write_values(to, plane, call.width, scale, shift);
          continue;
        }
        for (int64_t x = 0; x < padded; x += kLanes) {
          store(plane + x, load(plane + x) * scale + shift);
        }
      }
      if (!call.out_last) return;
    } else if (!call.out_last) {
      for (int64_t c = 0; c < call.channels; ++c) {
        T* to = out + offset(false, call.channels, call.pixels(), image, c, y * call.width);
        copy_values(to, planes + c * padded, call.width);
      }
      return;
    }
    for (int64_t c = 0; c < call.channels; ++c) {
      const float* plane = planes + c * padded;
      for (int64_t x = 0; x < call.width; ++x) packed[x * call.channels + c] = plane[x];
    }
    T* to = out + offset(true, call.channels, call.pixels(), image, 0, y * call.width);
    copy_values(to, packed, call.width * call.channels);
  }

  template <class T>
  FTBENCH_INLINE void write_values(T* to, const float* from, int64_t count, Vector scale,
                                   Vector shift) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      put<Route::kCached, std::is_same_v<T, c10::BFloat16>>(to + i, load(from + i) * scale + shift);
    }
    if (i < count) store_part(to + i, load(from + i) * scale + shift, count - i);
  }

  template <class T>
  FTBENCH_INLINE void copy_values(T* to, const float* from, int64_t count) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) put<Route::kCached, std::is_same_v<T, c10::BFloat16>>(to + i, load(from + i));
    if (i < count) store_part(to + i, load_part(from + i, count - i), count - i);
  }

  // Returns the whole view of an image, made now unless it is held; `keep` is one to leave.
  FTBENCH_INLINE int hold(int64_t image, int keep) {
    for (int i = 0; i < 2; ++i) {
      if (held[i] == image) return i;
    }
    const int at = keep == 0 ? 1 : 0;
    float* whole = views[at];
    view(image, [&](int64_t y) __attribute__((always_inline)) {
      for (int64_t c = 0; c < call.channels; ++c) {
        float* to = whole + (c * call.height + y) * padded;
        for (int64_t x = 0; x < padded; x += kLanes) store(to + x, load(planes + c * padded + x));
      }
    });
    held[at] = image;
    return at;
  }

  // Row `y` of an image's view and of its partner's, mixed into planes.
  FTBENCH_INLINE void blend_row(const float* own, const float* other, float weight, const Box& box,
                                int64_t y) {
    const bool crosses = y >= box.top && y < box.bottom;
    const Vector mine = fill(weight), theirs = fill(1.0f - weight);
    for (int64_t c = 0; c < call.channels; ++c) {
      const float* a = own + (c * call.height + y) * padded;
      const float* b = other + (c * call.height + y) * padded;
      float* to = planes + c * padded;
      for (int64_t x = 0; x < padded; x += kLanes) {
        const Vector v = load(a + x), w = load(b + x);
        Vector mixed = weight == 1.0f ? v : mine * v + theirs * w;
        if (crosses && x + kLanes > box.left && x < box.right) {
          const int64_t from = box.left > x ? box.left - x : 0;
          const int64_t till = box.right < x + kLanes ? box.right - x : kLanes;
          const uint32_t inside = ((1u << till) - 1) & ~((1u << from) - 1);
          mixed = select(inside, w, mixed);
        }
        store(to + x, mixed);
      }
    }
  }

  template <class T>
  FTBENCH_INLINE void make(int64_t image) {
    if (!call.mixes(image)) {
      if (!call.partner) {
        view(image, [&](int64_t y) __attribute__((always_inline)) { write_row<T>(image, y); });
        return;
      }
      const float* whole = views[hold(image, -1)];
      for (int64_t y = 0; y < call.height; ++y) {
        for (int64_t c = 0; c < call.channels; ++c) {
          const float* from = whole + (c * call.height + y) * padded;
          for (int64_t x = 0; x < padded; x += kLanes) store(planes + c * padded + x, load(from + x));
        }
        write_row<T>(image, y);
      }
      return;
    }
    const int64_t partner = call.partner[image];
    const int own = hold(image, held[0] == partner ? 0 : held[1] == partner ? 1 : -1);
    const int other = hold(partner, own);
    const Box box = call.clipped_box(image);
    for (int64_t y = 0; y < call.height; ++y) {
      blend_row(views[own], views[other], call.weight[image], box, y);
      write_row<T>(image, y);
    }
  }
};

template <class T>
void augment_turns_to(const Augment& call, const Turn* turns, float* scratch, int64_t begin,
                      int64_t end) {
  Viewer viewer{call, {}, {}, nullptr, nullptr, nullptr, {}, {}, 0};
  viewer.carve(scratch);
  for (int64_t i = begin; i < end; ++i) viewer.make<T>(turns ? turns[i].image : i);
}

void augment_turns(const Augment& call, const Turn* turns, float* scratch, int64_t begin,
                   int64_t end) {
  switch (call.to) {
    case Element::kHalf:
      return augment_turns_to<c10::Half>(call, turns, scratch, begin, end);
    case Element::kBFloat16:
      return augment_turns_to<c10::BFloat16>(call, turns, scratch, begin, end);
    default:
      return augment_turns_to<float>(call, turns, scratch, begin, end);
  }
}

int64_t augment_scratch(const Augment& call) {
  const int64_t wide = whole_vectors(call.width), tall = whole_vectors(call.height);
  const int64_t sides = tall * (1 + most_taps(call.store_height, call.height)) +
                        wide * (1 + most_taps(call.store_width, call.width)) +
                        whole_vectors(wide / kLanes);
  const int64_t rows = Viewer::row_values(call) + call.channels * wide +
                       whole_vectors(call.channels * call.width);
  return sides + rows + (call.partner ? 2 * call.channels * call.height * wide : 0) + kLanes;
}
