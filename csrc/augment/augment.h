// The arithmetic of views that the CPU and the GPU share: which pixels of a crop a pixel is made of,
// and with what weights.
#pragma once

#include "../mix/mix.h"

namespace ftbench {

// A call's sizes and addresses. The store is (N, H, W, C) bytes; `out` is dense (B, C, H, W), or
// (B, H, W, C) in memory where `out_last`. `partner` is null where nothing is mixed, `scale` and
// `shift`, one number a channel, where nothing is normalised.
struct Augment {
  const uint8_t* store;
  int64_t store_height, store_width, channels;
  const int64_t* rows;
  const float* crop;  // top, left, height, width for each image
  const bool* flip;
  int64_t batch, height, width;
  const int64_t* partner;
  const float* weight;
  const int32_t* box;
  const float* scale;
  const float* shift;
  void* out;
  Element to;
  bool out_last;

  FTBENCH_SHARED int64_t pixels() const { return height * width; }
  FTBENCH_SHARED const uint8_t* image(int64_t index) const {
    return store + rows[index] * store_height * store_width * channels;
  }
  FTBENCH_SHARED Box clipped_box(int64_t image) const { return clip(box + 4 * image, height, width); }
  // Whether a pixel of an image is made of its partner's as well as of its own.
  FTBENCH_SHARED bool mixes(int64_t image) const {
    return partner && partner[image] != image &&
           (weight[image] != 1.0f || !clipped_box(image).empty());
  }
};

// One side of a crop: it begins within its first pixel and is `length` long.
struct Side {
  int32_t begin, pixels;  // the whole pixels it touches
  float offset, end;      // where it starts within the first, and ends, counted from there
  float step;             // between neighbours of the result, in pixels of the store
  float reach;            // of a pixel's weights: half the foot of a triangle

  FTBENCH_SHARED float centre(int64_t index) const {
    return offset + step * (static_cast<float>(index) + 0.5f);
  }
};

FTBENCH_SHARED int32_t floor_of(float value) {
  const int32_t cut = static_cast<int32_t>(value);
  return static_cast<float>(cut) > value ? cut - 1 : cut;
}

// The side of a crop in a store that is `size` pixels long there, for a result of `wanted` pixels.
FTBENCH_SHARED Side side_of(float start, float length, int64_t size, int64_t wanted) {
  const int32_t last = static_cast<int32_t>(size) - 1;
  int32_t begin = floor_of(start);
  begin = begin < 0 ? 0 : begin > last ? last : begin;
  int32_t end = -floor_of(-(start + length));
  end = end > last + 1 ? last + 1 : end <= begin ? begin + 1 : end;
  const float step = length / static_cast<float>(wanted);
  const float offset = start - static_cast<float>(begin);
  return {begin, end - begin, offset, offset + length, step, step > 1.0f ? step : 1.0f};
}

// Where the pixels begin that one of the result is made of, and how many there are.
struct Foot {
  int32_t first, count;
};

FTBENCH_SHARED Foot foot_of(const Side& side, float centre) {
  const float low = centre - side.reach + 0.5f, high = centre + side.reach + 0.5f;
  const int32_t first = low > 0.0f ? static_cast<int32_t>(low) : 0;
  const int32_t begin = first < side.pixels ? first : side.pixels - 1;
  int32_t end = static_cast<int32_t>(high);
  end = end > side.pixels ? side.pixels : end <= begin ? begin + 1 : end;
  return {begin, end - begin};
}

// A triangle over the pixel's own place, as wide as a step, or as a pixel where that is wider, which
// torch calls bilinear with antialiasing; of a pixel that the crop cuts, the share that is inside.
// Not normalised.
FTBENCH_SHARED float weight_at(const Side& side, float centre, int32_t pixel) {
  const float away = (static_cast<float>(pixel) + 0.5f - centre) / side.reach;
  const float height = 1.0f - (away < 0.0f ? -away : away);
  const float low = static_cast<float>(pixel), high = low + 1.0f;
  const float inside = (high < side.end ? high : side.end) - (low > side.offset ? low : side.offset);
  return height > 0.0f && inside > 0.0f ? height * inside : 0.0f;
}

// No pixel of a result is made of more along a side.
FTBENCH_SHARED int64_t most_taps(int64_t size, int64_t wanted) {
  const int64_t step = (size + wanted - 1) / wanted;
  const int64_t taps = 2 * (step > 1 ? step : 1) + 2;
  return taps < size ? taps : size;
}

}  // namespace ftbench
