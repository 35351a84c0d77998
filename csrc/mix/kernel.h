// Mixing tiles, for one instruction set. Included by simd/compile.h in that set's namespace.

// Calls row(begin, end) for the pixels of each row of a box that lie in [begin, end).
template <class F>
inline void each_row(const Box& box, int64_t width, int64_t begin, int64_t end, const F& row) {
  if (box.empty()) return;
  const int64_t first = begin / width > box.top ? begin / width : box.top;
  for (int64_t i = first; i < box.bottom && i * width < end; ++i) {
    const int64_t left = i * width + box.left, right = i * width + box.right;
    const int64_t from = left < begin ? begin : left, until = right > end ? end : right;
    if (from < until) row(from, until);
  }
}

// Some pixels of an image as floats in the order of the result.
template <class In>
__attribute__((noinline)) void turn(const Mix& mix, int64_t image, int64_t pixel, int64_t count,
                                    float* to) {
  const int64_t channels = mix.channels;
  for (int64_t c = 0; c < channels; ++c) {
    const In* from = static_cast<const In*>(mix.images) +
                     offset(mix.images_last, channels, mix.pixels(), image, c, pixel);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t here = mix.images_last ? i * channels : i;
      const int64_t there = mix.out_last ? i * channels + c : c * count + i;
      to[there] = static_cast<float>(from[here]);
    }
  }
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

  // The first or second of two images that are mixed at a time.
  Pattern pattern(int64_t plane, int which) const {
    const int64_t size = kLanes * tiles.period;
    float* at = scratch + which * tiles.pattern + plane * 4 * size;
    return {at, at + size, at + 2 * size, at + 3 * size, tiles.period, depth() == 1};
  }
  // The tile of the image that is overwritten before its last reader comes.
  In* kept() const { return reinterpret_cast<In*>(scratch + 2 * tiles.pattern); }
  // One bit for each of the tile's values that lie together: whether it is in the box.
  uint8_t* inside() const { return reinterpret_cast<uint8_t*>(scratch + tiles.inside); }
  int64_t bit(int64_t pixel) const { return (pixel - tile.pixel) * depth(); }

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
      case Source::kBothAround:
        return Writer<From, Out, kPixels, kPeriod, Source::kBothAround>::write(run, pattern, route);
      case Source::kEither:
        return Writer<From, Out, kPixels, kPeriod, Source::kEither>::write(run, pattern, route);
    }
  }

  Route route() const { return tiles.past_caches ? Route::kPast : Route::kCached; }

  // Pixels [begin, end) of one channel, or of all that lie together.
  Run<In, Out> run_of(const Step& step, int64_t begin, int64_t end) const {
    const In* partner = mix.in_place() && step.from_kept
                            ? kept() + bit(begin)
                            : address(mix.partner[step.image], tile.channel, begin);
    return {address(step.image, tile.channel, begin), partner,
            target(step.image, tile.channel, begin),  (end - begin) * depth(),
            inside(), bit(begin)};
  }

  // Whether bytes are read by threes and written to three planes.
  bool triples() const {
    return sizeof(In) == 1 && kPeriod >= 0 && kPeriod <= 1 && mix.images_last && planes() == 3;
  }

  // Pixels [begin, end) where channels are innermost in the images or in the result alone.
  void write_turned(const Step& step, Source source, int64_t begin, int64_t end, int which) const {
    const int64_t partner = mix.partner[step.image];
    if constexpr (sizeof(In) == 1 && kPeriod >= 0 && kPeriod <= 1) {
      if (triples()) {
        const Pattern patterns[3] = {pattern(0, which), pattern(1, which), pattern(2, which)};
        begin += write_triples_of(source, run_of(step, begin, end), patterns);
      }
    }
    while (begin < end) {
      const int64_t count = end - begin < tiles.turned ? end - begin : tiles.turned;
      float* own = scratch + 2 * tiles.pattern;
      float* other = own + count * mix.channels;
      turn<In>(mix, step.image, begin, count, own);
      turn<In>(mix, partner, begin, count, other);
      for (int64_t plane = 0; plane < planes(); ++plane) {
        const int64_t from = plane * count;
        const Run<float, Out> run{own + from, other + from, target(step.image, plane, begin),
                                  count * depth(), inside(), bit(begin)};
        write(source, run, pattern(plane, which), Route::kCached);
      }
      begin += count;
    }
  }

  int64_t write_triples_of(Source source, const Run<In, Out>& run, const Pattern* patterns) const {
    constexpr bool kNormalised = kPeriod != 0;
    const int64_t plane = mix.pixels();
    switch (source) {
      case Source::kBoth:
        return write_triples<Out, kNormalised, Source::kBoth>(run, plane, patterns, route());
      case Source::kBothAround:
        return write_triples<Out, kNormalised, Source::kBothAround>(run, plane, patterns, route());
      case Source::kEither:
        return write_triples<Out, kNormalised, Source::kEither>(run, plane, patterns, route());
    }
    return 0;
  }

  __attribute__((noinline)) void write_run(const Step& step, Source source, int64_t begin,
                                           int64_t end, int which = 0) const {
    if (mix.images_last == mix.out_last) {
      write(source, run_of(step, begin, end), pattern(0, which), route());
    } else {
      write_turned(step, source, begin, end, which);
    }
  }

  // The tile of one image, in one run: pieces of rows are fetched and written slowly, above all
  // past the caches, where a line in two pieces must be read first. But what stays as it is is not
  // touched.
  void write_image(const Step& step, const Box& box, float weight) const {
    const int64_t begin = tile.pixel, end = begin + tile.pixels;
    if (weight != 0.0f && weight != 1.0f && !meets(box, begin, end)) {
      return write_run(step, Source::kBoth, begin, end);
    }
    const bool stays = kPeriod == 0 && mix.in_place() && weight == 1.0f;
    __builtin_memset(inside(), weight == 0.0f || stays ? 0xff : 0,
                     tiles.inside_words * sizeof(float));
    each_row(box, mix.width, begin, end, [&](int64_t from, int64_t until) {
      if (stays) {
        write_run(step, Source::kEither, from, until);
      } else {
        set_bits(inside(), bit(from), bit(until));
      }
    });
    if (stays) return;
    const bool either = weight == 0.0f || weight == 1.0f;
    write_run(step, either ? Source::kEither : Source::kBothAround, begin, end);
  }

  bool meets(const Box& box, int64_t begin, int64_t end) const {
    return !box.empty() && begin < box.bottom * mix.width && box.top * mix.width < end;
  }

  Box box(const Step& step) const {
    return clip(mix.box + 4 * int64_t{step.image}, mix.height, mix.width);
  }

  void set_patterns(const Step& step, int which) const {
    for (int64_t plane = 0; plane < planes(); ++plane) {
      Pattern shares = pattern(plane, which);
      set_pattern(shares, mix, mix.weight[step.image], tile.channel + plane, depth());
    }
  }

  // Whether every pixel of this tile is of both images.
  bool all_both(const Step& step) const {
    const float weight = mix.weight[step.image];
    return weight != 0.0f && weight != 1.0f &&
           !meets(box(step), tile.pixel, tile.pixel + tile.pixels);
  }

  // Converting bytes takes longer than reading them: where one image's partner comes next, two
  // results are made of three images. Returns whether it could be done.
  bool write_two(const Step& step, const Step& next) const {
    if constexpr (sizeof(In) == 1 && (kPeriod == 1 || kPeriod == 3)) {
      const bool alike = mix.images_last == mix.out_last;
      if (!alike && !triples()) return false;
      if (mix.partner[step.image] != next.image || !all_both(step) || !all_both(next)) return false;
      set_patterns(step, 0);
      set_patterns(next, 1);
      const int64_t begin = tile.pixel, end = begin + tile.pixels;
      const Run<In, Out> one = run_of(step, begin, end), two = run_of(next, begin, end);
      int64_t done;
      if (alike) {
        using Both = Writer<In, Out, kPixels, kPeriod, Source::kBoth>;
        const Pattern patterns[2] = {pattern(0, 0), pattern(0, 1)};
        done = Both::write_two(one, two, patterns, route()) / depth();
      } else {
        const Pattern patterns[6] = {pattern(0, 0), pattern(1, 0), pattern(2, 0),
                                     pattern(0, 1), pattern(1, 1), pattern(2, 1)};
        done = write_two_triples(one, two, mix.pixels(), patterns, route());
      }
      if (begin + done < end) {
        write_run(step, Source::kBoth, begin + done, end, 0);
        write_run(next, Source::kBoth, begin + done, end, 1);
      }
      return true;
    }
    return false;
  }

  // This tile of the images of steps [begin, end).
  void mix_steps(int64_t begin, int64_t end) {
    const int64_t left = mix.pixels() - tile.pixel;
    if (tile.pixels > left) tile.pixels = left;
    for (int64_t k = begin; k < end; ++k) {
      const Step& step = steps[k];
      if (k + 1 < end && write_two(step, steps[k + 1])) {
        ++k;
        continue;
      }
      set_patterns(step, 0);
      if (mix.in_place() && step.keep) {
        __builtin_memcpy(kept(), address(step.image, tile.channel, tile.pixel),
                         tile.pixels * depth() * sizeof(In));
      }
      write_image(step, box(step), mix.weight[step.image]);
    }
  }
};

template <class In, class Out>
inline void mix_tiles_of(const Mix& mix, const Tiles& tiles, const Step* steps, float* scratch,
                         int64_t begin, int64_t end) {
  while (begin < end) {
    const Tile tile = tiles[begin / mix.batch];
    const int64_t first = begin % mix.batch;
    const int64_t last = end - begin < mix.batch - first ? first + end - begin : mix.batch;
    if (!mix.scale) {
      Mixer<In, Out, 0>{mix, tiles, steps, scratch, tile}.mix_steps(first, last);
    } else if (tiles.period == 1) {
      Mixer<In, Out, 1>{mix, tiles, steps, scratch, tile}.mix_steps(first, last);
    } else if (tiles.period == 3) {
      Mixer<In, Out, 3>{mix, tiles, steps, scratch, tile}.mix_steps(first, last);
    } else {
      Mixer<In, Out, -1>{mix, tiles, steps, scratch, tile}.mix_steps(first, last);
    }
    begin += last - first;
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
