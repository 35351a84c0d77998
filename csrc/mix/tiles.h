// How the CPU cuts images: a tile of one image and the same tile of its partner stay in the caches,
// and the partner comes next, so that each value is fetched from memory once.
#pragma once

#include <algorithm>
#include <numeric>

#include "mix.h"

namespace ftbench {

struct Tile {
  int64_t channel, pixel, pixels;
};

struct Tiles {
  bool planes;        // a tile is of one channel, otherwise of all
  int64_t pixels;     // in a tile; the last of an image may have fewer
  int64_t per_plane;
  int64_t count;
  bool past_caches;   // whether the batch is too large to stay in them
  int64_t period;     // after so many vectors of sixteen the channels come round again
  int64_t transposed;     // pixels whose order is changed at a time
  int64_t pattern;    // floats of scratch for the shares of one image; two are mixed at a time
  int64_t inside;     // before the bits that say which values are in the box
  int64_t inside_words;  // of 32 bits
  int64_t scratch;    // and in all

  Tile operator[](int64_t index) const {
    return {index / per_plane, index % per_plane * pixels, pixels};
  }
};

// Long pieces are fetched faster, but an image's tile should still be in the second-level cache when
// it has been its neighbour's partner.
constexpr int64_t kTileBytes = 96 << 10;
constexpr int64_t kLeastValues = 256;  // fewer are not worth a tile

constexpr int64_t kManyTiles = 16;     // for a thread: the last one's share no longer matters

inline int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t bytes_of(Element element) {
  return element == Element::kFloat ? 4 : element == Element::kByte ? 1 : 2;
}

inline Tiles cut(const Mix& mix, int64_t threads, int64_t last_cache_bytes) {
  Tiles tiles{};
  tiles.planes = !mix.images_last && !mix.out_last;
  const int64_t planes = tiles.planes ? mix.channels : 1;
  const int64_t depth = tiles.planes ? 1 : mix.channels;
  const int64_t most = std::max<int64_t>(kTileBytes / bytes_of(mix.from) / depth, 1);
  const int64_t pixels = mix.pixels(), most_tiles = std::max<int64_t>(pixels * depth / kLeastValues, 1);
  tiles.per_plane = ceil_divide(pixels, most);
  // In place a thread has whole tiles: as many for each, unless they would become too small.
  while (mix.in_place() && tiles.per_plane * planes % threads != 0 && tiles.per_plane < most_tiles &&
         tiles.per_plane * planes < kManyTiles * threads) {
    ++tiles.per_plane;
  }
  // Whole vectors, so that a tile does not end within one.
  tiles.pixels = ceil_divide(ceil_divide(pixels, tiles.per_plane), 16) * 16;
  tiles.per_plane = ceil_divide(pixels, tiles.pixels);
  tiles.count = planes * tiles.per_plane;
  const int64_t patterns = mix.out_last ? 1 : depth;
  tiles.period = mix.out_last ? mix.channels / std::gcd(mix.channels, int64_t{16}) : 1;
  tiles.pattern = 4 * 16 * tiles.period * patterns;
  tiles.transposed = std::max<int64_t>(1, 1024 / depth);
  const int64_t kept = mix.in_place() ? tiles.pixels * depth : 0;
  const int64_t transposed = mix.images_last == mix.out_last ? 0 : 2 * tiles.transposed * depth;
  // A batch that fits in the caches, or nearly, is wanted there by whoever reads it next.
  const int64_t moved = mix.batch * mix.channels * pixels * (bytes_of(mix.from) + bytes_of(mix.to));
  tiles.past_caches = !mix.in_place() && moved / 3 * 2 > last_cache_bytes;
  // Bits, and what is read and written beyond the last.
  tiles.inside = 2 * tiles.pattern + std::max(kept, transposed);
  tiles.inside_words = tiles.pixels * (mix.out_last ? depth : 1) / 32 + 2;
  tiles.scratch = tiles.inside + tiles.inside_words;
  return tiles;
}

// The order in which a batch may be overwritten in place, and in which every image is read once:
// each image is followed by its partner where that is possible.
struct Turn {
  int32_t image;
  bool keep;         // the first of a cycle: its last image needs it after it is overwritten
  bool from_kept;    // the last of a cycle: its partner is the one that was kept
};

// Fills turns[batch]; `waiting` is scratch for `batch` numbers. Partners must lie in the batch.
// An image is overwritten only after those that it is partner of, so chains that lead into a cycle
// go first, from their ends; what is left are cycles.
inline void order_turns(const int64_t* partner, int64_t batch, int32_t* waiting,
                                Turn* turns) {
  for (int64_t i = 0; i < batch; ++i) waiting[i] = 0;
  for (int64_t i = 0; i < batch; ++i) {
    if (partner[i] != i) ++waiting[partner[i]];
  }
  int64_t count = 0;
  constexpr int32_t kDone = -1;
  for (int64_t i = 0; i < batch; ++i) {
    int64_t image = i;
    while (waiting[image] == 0) {
      waiting[image] = kDone;
      turns[count++] = {static_cast<int32_t>(image), false, false};
      if (partner[image] == image) break;
      image = partner[image];
      --waiting[image];
    }
  }
  for (int64_t i = 0; i < batch; ++i) {
    if (waiting[i] == kDone) continue;
    int64_t image = i;
    do {
      waiting[image] = kDone;
      turns[count++] = {static_cast<int32_t>(image), image == i, partner[image] == i};
      image = partner[image];
    } while (image != i);
  }
}

}  // namespace ftbench
