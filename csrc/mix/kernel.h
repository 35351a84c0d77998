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
__attribute__((noinline)) void transpose(const Mix& mix, int64_t image, int64_t pixel, int64_t count,
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
  const Turn* turns;
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
  static void write(Blend blend, const Span<From, Out>& span, const Pattern& pattern,
                    Route route) {
    switch (blend) {
      case Blend::kBoth:
        return Writer<From, Out, kPixels, kPeriod, Blend::kBoth>::write(span, pattern, route);
      case Blend::kBothAround:
        return Writer<From, Out, kPixels, kPeriod, Blend::kBothAround>::write(span, pattern, route);
      case Blend::kEither:
        return Writer<From, Out, kPixels, kPeriod, Blend::kEither>::write(span, pattern, route);
    }
  }

  Route route() const { return tiles.past_caches ? Route::kPast : Route::kCached; }

  // Pixels [begin, end) of one channel, or of all that lie together.
  Span<In, Out> span_of(const Turn& turn, int64_t begin, int64_t end) const {
    const In* partner = mix.in_place() && turn.from_kept
                            ? kept() + bit(begin)
                            : address(mix.partner[turn.image], tile.channel, begin);
    return {address(turn.image, tile.channel, begin), partner,
            target(turn.image, tile.channel, begin),  (end - begin) * depth(),
            inside(), bit(begin)};
  }

  // Whether bytes are read by threes and written to three planes.
  bool triples() const {
    return sizeof(In) == 1 && kPeriod >= 0 && kPeriod <= 1 && mix.images_last && planes() == 3;
  }

  // Pixels [begin, end) where channels are innermost in the images or in the result alone.
  void write_transposed(const Turn& turn, Blend blend, int64_t begin, int64_t end, int which) const {
    const int64_t partner = mix.partner[turn.image];
    if constexpr (sizeof(In) == 1 && kPeriod >= 0 && kPeriod <= 1) {
      if (triples()) {
        const Pattern patterns[3] = {pattern(0, which), pattern(1, which), pattern(2, which)};
        begin += write_triples_of(blend, span_of(turn, begin, end), patterns);
      }
    }
    while (begin < end) {
      const int64_t count = end - begin < tiles.transposed ? end - begin : tiles.transposed;
      float* own = scratch + 2 * tiles.pattern;
      float* other = own + count * mix.channels;
      transpose<In>(mix, turn.image, begin, count, own);
      transpose<In>(mix, partner, begin, count, other);
      for (int64_t plane = 0; plane < planes(); ++plane) {
        const int64_t from = plane * count;
        const Span<float, Out> span{own + from, other + from, target(turn.image, plane, begin),
                                  count * depth(), inside(), bit(begin)};
        write(blend, span, pattern(plane, which), Route::kCached);
      }
      begin += count;
    }
  }

  int64_t write_triples_of(Blend blend, const Span<In, Out>& span, const Pattern* patterns) const {
    constexpr bool kNormalised = kPeriod != 0;
    const int64_t plane = mix.pixels();
    switch (blend) {
      case Blend::kBoth:
        return write_triples<Out, kNormalised, Blend::kBoth>(span, plane, patterns, route());
      case Blend::kBothAround:
        return write_triples<Out, kNormalised, Blend::kBothAround>(span, plane, patterns, route());
      case Blend::kEither:
        return write_triples<Out, kNormalised, Blend::kEither>(span, plane, patterns, route());
    }
    return 0;
  }

  __attribute__((noinline)) void write_span(const Turn& turn, Blend blend, int64_t begin,
                                           int64_t end, int which = 0) const {
    if (mix.images_last == mix.out_last) {
      write(blend, span_of(turn, begin, end), pattern(0, which), route());
    } else {
      write_transposed(turn, blend, begin, end, which);
    }
  }

  // The tile of one image, in one span: pieces of rows are fetched and written slowly, above all
  // past the caches, where a line in two pieces must be read first. But what stays as it is is not
  // touched.
  void write_image(const Turn& turn, const Box& box, float weight) const {
    const int64_t begin = tile.pixel, end = begin + tile.pixels;
    if (weight != 0.0f && weight != 1.0f && !meets(box, begin, end)) {
      return write_span(turn, Blend::kBoth, begin, end);
    }
    const bool stays = kPeriod == 0 && mix.in_place() && weight == 1.0f;
    __builtin_memset(inside(), weight == 0.0f || stays ? 0xff : 0,
                     tiles.inside_words * sizeof(float));
    each_row(box, mix.width, begin, end, [&](int64_t from, int64_t until) {
      if (stays) {
        write_span(turn, Blend::kEither, from, until);
      } else {
        set_bits(inside(), bit(from), bit(until));
      }
    });
    if (stays) return;
    const bool either = weight == 0.0f || weight == 1.0f;
    write_span(turn, either ? Blend::kEither : Blend::kBothAround, begin, end);
  }

  bool meets(const Box& box, int64_t begin, int64_t end) const {
    return !box.empty() && begin < box.bottom * mix.width && box.top * mix.width < end;
  }

  Box box(const Turn& turn) const {
    return clip(mix.box + 4 * int64_t{turn.image}, mix.height, mix.width);
  }

  void set_patterns(const Turn& turn, int which) const {
    for (int64_t plane = 0; plane < planes(); ++plane) {
      Pattern shares = pattern(plane, which);
      set_pattern(shares, mix, mix.weight[turn.image], tile.channel + plane, depth());
    }
  }

  // Whether every pixel of this tile is of both images.
  bool all_both(const Turn& turn) const {
    const float weight = mix.weight[turn.image];
    return weight != 0.0f && weight != 1.0f &&
           !meets(box(turn), tile.pixel, tile.pixel + tile.pixels);
  }

  // Converting bytes takes longer than reading them: where one image's partner comes next, two
  // results are made of three images. Returns whether it could be done.
  bool write_two(const Turn& turn, const Turn& next) const {
    if constexpr (sizeof(In) == 1 && (kPeriod == 1 || kPeriod == 3)) {
      const bool alike = mix.images_last == mix.out_last;
      if (!alike && !triples()) return false;
      if (mix.partner[turn.image] != next.image || !all_both(turn) || !all_both(next)) return false;
      set_patterns(turn, 0);
      set_patterns(next, 1);
      const int64_t begin = tile.pixel, end = begin + tile.pixels;
      const Span<In, Out> one = span_of(turn, begin, end), two = span_of(next, begin, end);
      int64_t done;
      if (alike) {
        using Both = Writer<In, Out, kPixels, kPeriod, Blend::kBoth>;
        const Pattern patterns[2] = {pattern(0, 0), pattern(0, 1)};
        done = Both::write_two(one, two, patterns, route()) / depth();
      } else {
        const Pattern patterns[6] = {pattern(0, 0), pattern(1, 0), pattern(2, 0),
                                     pattern(0, 1), pattern(1, 1), pattern(2, 1)};
        done = write_two_triples(one, two, mix.pixels(), patterns, route());
      }
      if (begin + done < end) {
        write_span(turn, Blend::kBoth, begin + done, end, 0);
        write_span(next, Blend::kBoth, begin + done, end, 1);
      }
      return true;
    }
    return false;
  }

  // This tile of the images of turns [begin, end).
  void mix_turns(int64_t begin, int64_t end) {
    const int64_t left = mix.pixels() - tile.pixel;
    if (tile.pixels > left) tile.pixels = left;
    for (int64_t k = begin; k < end; ++k) {
      const Turn& turn = turns[k];
      if (k + 1 < end && write_two(turn, turns[k + 1])) {
        ++k;
        continue;
      }
      set_patterns(turn, 0);
      if (mix.in_place() && turn.keep) {
        __builtin_memcpy(kept(), address(turn.image, tile.channel, tile.pixel),
                         tile.pixels * depth() * sizeof(In));
      }
      write_image(turn, box(turn), mix.weight[turn.image]);
    }
  }
};

template <class In, class Out>
inline void mix_tiles_of(const Mix& mix, const Tiles& tiles, const Turn* turns, float* scratch,
                         int64_t begin, int64_t end) {
  while (begin < end) {
    const Tile tile = tiles[begin / mix.batch];
    const int64_t first = begin % mix.batch;
    const int64_t last = end - begin < mix.batch - first ? first + end - begin : mix.batch;
    if (!mix.scale) {
      Mixer<In, Out, 0>{mix, tiles, turns, scratch, tile}.mix_turns(first, last);
    } else if (tiles.period == 1) {
      Mixer<In, Out, 1>{mix, tiles, turns, scratch, tile}.mix_turns(first, last);
    } else if (tiles.period == 3) {
      Mixer<In, Out, 3>{mix, tiles, turns, scratch, tile}.mix_turns(first, last);
    } else {
      Mixer<In, Out, -1>{mix, tiles, turns, scratch, tile}.mix_turns(first, last);
    }
    begin += last - first;
  }
}

template <class In>
inline void mix_tiles_from(const Mix& mix, const Tiles& tiles, const Turn* turns, float* scratch,
                           int64_t begin, int64_t end) {
  switch (mix.to) {
    case Element::kHalf:
      return mix_tiles_of<In, c10::Half>(mix, tiles, turns, scratch, begin, end);
    case Element::kBFloat16:
      return mix_tiles_of<In, c10::BFloat16>(mix, tiles, turns, scratch, begin, end);
    default:
      return mix_tiles_of<In, float>(mix, tiles, turns, scratch, begin, end);
  }
}

void mix_tiles(const Mix& mix, const Tiles& tiles, const Turn* turns, float* scratch,
               int64_t begin, int64_t end) {
  switch (mix.from) {
    case Element::kByte:
      mix_tiles_from<uint8_t>(mix, tiles, turns, scratch, begin, end);
      break;
    case Element::kHalf:
      mix_tiles_from<c10::Half>(mix, tiles, turns, scratch, begin, end);
      break;
    case Element::kBFloat16:
      mix_tiles_from<c10::BFloat16>(mix, tiles, turns, scratch, begin, end);
      break;
    case Element::kFloat:
      mix_tiles_from<float>(mix, tiles, turns, scratch, begin, end);
      break;
  }
  finish();
}
