// Mixing tiles, for one instruction set. Included by simd/compile.h in that set's namespace.

// Cuts pixels [begin, end) where a box's edges are; what lies between two rows of the box is one run.
// Calls run(begin, end, inside).
template <class F>
inline void cut_runs(const Box& box, int64_t width, int64_t begin, int64_t end, const F& run) {
  if (!box.empty()) {
    const int64_t first = begin / width > box.top ? begin / width : box.top;
    for (int64_t row = first; row < box.bottom && row * width < end; ++row) {
      int64_t left = row * width + box.left, right = row * width + box.right;
      left = left < begin ? begin : left > end ? end : left;
      right = right < begin ? begin : right > end ? end : right;
      if (begin < left) run(begin, left, false);
      if (left < right) run(left, right, true);
      begin = right;
    }
  }
  if (begin < end) run(begin, end, false);
}

template <class In, class Out, int kPeriod>
struct Mixer {
  // Of normalised pixels, what is subnormal is far below their rounding: zero will do for it.
  static constexpr bool kPixels =
      sizeof(In) == 1 && kPeriod != 0 && std::is_same_v<Out, c10::BFloat16>;
  const Mix& mix;
  const Tiles& tiles;
  const Step* steps;
  float* scratch;
  Tile tile;

  // Values of a pixel that lie together in the result, and planes that a tile is in.
  int64_t depth() const { return mix.out_last ? mix.channels : 1; }
  int64_t planes() const { return tiles.planes || mix.out_last ? 1 : mix.channels; }

  Pattern pattern(int64_t plane) const {
    const int64_t size = kLanes * tiles.period;
    float* at = scratch + plane * 4 * size;
    return {at, at + size, at + 2 * size, at + 3 * size, tiles.period,
            depth() == 1};
  }
  // The tile of the image that is overwritten before its last reader comes.
  In* kept() const { return reinterpret_cast<In*>(scratch + tiles.patterns); }

  const In* address(int64_t image, int64_t channel, int64_t pixel) const {
    return static_cast<const In*>(mix.images) +
           offset(mix.images_last, mix.channels, mix.pixels(), image, channel, pixel);
  }
  Out* target(int64_t image, int64_t channel, int64_t pixel) const {
    return static_cast<Out*>(mix.out) +
           offset(mix.out_last, mix.channels, mix.pixels(), image, channel, pixel);
  }

  template <class From>
  static void write(Source source, const Run<From, Out>& run, const Pattern& pattern,
                    Route route) {
    switch (source) {
      case Source::kBoth:
        return Writer<From, Out, kPixels, kPeriod, Source::kBoth>::write(run, pattern, route);
      case Source::kPartner:
        return Writer<From, Out, kPixels, kPeriod, Source::kPartner>::write(run, pattern, route);
      case Source::kOwn:
        return Writer<From, Out, kPixels, kPeriod, Source::kOwn>::write(run, pattern, route);
    }
  }

  // Pixels [begin, end) where the images lie as the result does.
  void write_alike(const Step& step, Source source, int64_t begin, int64_t end,
                   Route route) const {
    const In* own = address(step.image, tile.channel, begin);
    const In* partner = mix.in_place() && step.from_kept
                            ? kept() + (begin - tile.pixel) * depth()
                            : address(mix.partner[step.image], tile.channel, begin);
    Out* out = target(step.image, tile.channel, begin);
    // An image that stays as it is is not touched.
    if (kPeriod == 0 && source == Source::kOwn && static_cast<const void*>(own) == out) return;
    write(source, Run<In, Out>{own, partner, out, (end - begin) * depth()}, pattern(0), route);
  }

  // Pixels [begin, end) where channels are innermost in the images or in the result alone.
  void write_turned(const Step& step, Source source, int64_t begin, int64_t end,
                    Route route) const {
    const int64_t partner = mix.partner[step.image];
    if constexpr (sizeof(In) == 1 && kPeriod >= 0 && kPeriod <= 1) {
      if (planes() == 3) {
        const Pattern patterns[3] = {pattern(0), pattern(1), pattern(2)};
        const Run<uint8_t, Out> run{address(step.image, 0, begin), address(partner, 0, begin),
                                    target(step.image, 0, begin), end - begin};
        begin += write_triples_of(source, run, patterns, route);
      }
    }
    while (begin < end) {
      const int64_t count = end - begin < tiles.turned ? end - begin : tiles.turned;
      float* own = scratch + tiles.patterns;
      float* other = own + count * mix.channels;
      turn(step.image, begin, count, own);
      turn(partner, begin, count, other);
      for (int64_t plane = 0; plane < planes(); ++plane) {
        const int64_t from = plane * count;
        const Run<float, Out> run{own + from, other + from, target(step.image, plane, begin),
                                  count * depth()};
        write(source, run, pattern(plane), Route::kCached);
      }
      begin += count;
    }
  }

  int64_t write_triples_of(Source source, const Run<uint8_t, Out>& run, const Pattern* patterns,
                           Route route) const {
    constexpr bool kNormalised = kPeriod != 0;
    const int64_t plane = mix.pixels();
    switch (source) {
      case Source::kBoth:
        return write_triples<Out, kNormalised, Source::kBoth>(run, plane, patterns, route);
      case Source::kPartner:
        return write_triples<Out, kNormalised, Source::kPartner>(run, plane, patterns, route);
      case Source::kOwn:
        return write_triples<Out, kNormalised, Source::kOwn>(run, plane, patterns, route);
    }
    return 0;
  }

  // Some pixels of an image as floats in the order of the result.
  void turn(int64_t image, int64_t pixel, int64_t count, float* to) const {
    const int64_t channels = mix.channels;
    for (int64_t c = 0; c < channels; ++c) {
      const In* from = address(image, c, pixel);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t here = mix.images_last ? i * channels : i;
        const int64_t there = mix.out_last ? i * channels + c : c * count + i;
        to[there] = static_cast<float>(from[here]);
      }
    }
  }

  void mix_tile() {
    const int64_t left = mix.pixels() - tile.pixel;
    if (tile.pixels > left) tile.pixels = left;
    float weight = __builtin_nanf("");  // unlike any
    for (int64_t k = 0; k < mix.batch; ++k) {
      const Step& step = steps[k];
      const Box box = clip(mix.box + 4 * step.image, mix.height, mix.width);
      if (mix.weight[step.image] != weight) {
        weight = mix.weight[step.image];
        for (int64_t plane = 0; plane < planes(); ++plane) {
          Pattern shares = pattern(plane);
          set_pattern(shares, mix, weight, tile.channel + plane, depth());
        }
      }
      if (mix.in_place() && step.keep) {
        __builtin_memcpy(kept(), address(step.image, tile.channel, tile.pixel),
                         tile.pixels * depth() * sizeof(In));
      }
      const Source outside = weight == 1.0f   ? Source::kOwn
                             : weight == 0.0f ? Source::kPartner
                                              : Source::kBoth;
      cut_runs(box, mix.width, tile.pixel, tile.pixel + tile.pixels,
               [&](int64_t begin, int64_t end, bool inside) {
                 const Source source = inside ? Source::kPartner : outside;
                 // Short runs would leave their lines half written.
                 const bool past = tiles.past_caches && end - begin >= mix.width;
                 const Route route = past ? Route::kPast : Route::kCached;
                 if (mix.images_last == mix.out_last) {
                   write_alike(step, source, begin, end, route);
                 } else {
                   write_turned(step, source, begin, end, route);
                 }
               });
    }
  }
};

template <class In, class Out>
inline void mix_tiles_of(const Mix& mix, const Tiles& tiles, const Step* steps, float* scratch,
                         int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if (!mix.scale) {
      Mixer<In, Out, 0>{mix, tiles, steps, scratch, tiles[i]}.mix_tile();
    } else if (tiles.period == 1) {
      Mixer<In, Out, 1>{mix, tiles, steps, scratch, tiles[i]}.mix_tile();
    } else if (tiles.period == 3) {
      Mixer<In, Out, 3>{mix, tiles, steps, scratch, tiles[i]}.mix_tile();
    } else {
      Mixer<In, Out, -1>{mix, tiles, steps, scratch, tiles[i]}.mix_tile();
    }
  }
}

template <class In>
inline void mix_tiles_from(const Mix& mix, const Tiles& tiles, const Step* steps, float* scratch,
                           int64_t begin, int64_t end) {
  switch (mix.to) {
    case Element::kHalf:
      return mix_tiles_of<In, c10::Half>(mix, tiles, steps, scratch, begin, end);
    case Element::kBFloat16:
      return mix_tiles_of<In, c10::BFloat16>(mix, tiles, steps, scratch, begin, end);
    default:
      return mix_tiles_of<In, float>(mix, tiles, steps, scratch, begin, end);
  }
}

void mix_tiles(const Mix& mix, const Tiles& tiles, const Step* steps, float* scratch,
               int64_t begin, int64_t end) {
  switch (mix.from) {
    case Element::kByte:
      mix_tiles_from<uint8_t>(mix, tiles, steps, scratch, begin, end);
      break;
    case Element::kHalf:
      mix_tiles_from<c10::Half>(mix, tiles, steps, scratch, begin, end);
      break;
    case Element::kBFloat16:
      mix_tiles_from<c10::BFloat16>(mix, tiles, steps, scratch, begin, end);
      break;
    case Element::kFloat:
      mix_tiles_from<float>(mix, tiles, steps, scratch, begin, end);
      break;
  }
  finish();
}
