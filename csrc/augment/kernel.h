// Views of images, for one instruction set: a row of the result at a time. Included by compile.h.

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

  // Lays everything out in scratch; returns how many numbers that takes. Null only counts them.
  int64_t carve(float* scratch) {
    int64_t used = 0;
    const auto floats = [&](int64_t count) {
      float* at = scratch ? scratch + used : nullptr;
      used += count;
      return at;
    };
    const auto ints = [&](int64_t count) { return reinterpret_cast<int32_t*>(floats(count)); };
    padded = whole_vectors(call.width);
    const int64_t tall = whole_vectors(call.height);
    down.first = ints(tall);
    across.first = ints(padded);
    across.base = ints(whole_vectors(padded / kLanes));
    down.weights = floats(tall * most_taps(call.store_height, call.height));
    across.weights = floats(padded * most_taps(call.store_width, call.width));
    row = floats(row_values(call));
    planes = floats(call.channels * padded);
    packed = floats(whole_vectors(call.channels * call.width));
    for (int i = 0; call.partner && i < 2; ++i) {
      views[i] = floats(call.channels * call.height * padded);
      held[i] = -1;
    }
    return used;
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
        blend_row(whole, whole, 1.0f, Box{0, 0, 0, 0}, y);
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

Viewer viewer_of(const Augment& call) {
  return {call, {}, {}, nullptr, nullptr, nullptr, {}, {}, 0};
}

template <class T>
void augment_turns_to(const Augment& call, const Turn* turns, float* scratch, int64_t begin,
                      int64_t end) {
  Viewer viewer = viewer_of(call);
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

int64_t augment_scratch(const Augment& call) { return viewer_of(call).carve(nullptr); }
