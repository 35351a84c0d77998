// The arithmetic of mixing that the CPU and the GPU share: boxes, weights, indices, order.
#pragma once

#include "../portable.h"

namespace ftbench {

enum class Element : int8_t { kFloat, kHalf, kBFloat16, kByte };

// [top, left, bottom, right), as a plan stores them.
struct Box {
  int32_t top, left, bottom, right;

  FTBENCH_SHARED bool empty() const { return top >= bottom || left >= right; }
  FTBENCH_SHARED bool holds(int64_t row, int64_t column) const {
    return row >= top && row < bottom && column >= left && column < right;
  }
};

FTBENCH_SHARED int32_t clamp_index(int32_t value, int64_t limit) {
  return value < 0 ? 0 : value > limit ? static_cast<int32_t>(limit) : value;
}

// The part of a box that lies in the image; one that lies outside becomes empty.
FTBENCH_SHARED Box clip(const int32_t* box, int64_t height, int64_t width) {
  const Box clipped{clamp_index(box[0], height), clamp_index(box[1], width),
                    clamp_index(box[2], height), clamp_index(box[3], width)};
  return clipped.empty() ? Box{0, 0, 0, 0} : clipped;
}

// The weight of a sample's own label: what its own image has of the pixels.
FTBENCH_SHARED float label_weight_of(float weight, const int32_t* box, int64_t height, int64_t width) {
  const Box clipped = clip(box, height, width);
  const double area =
      static_cast<double>(clipped.bottom - clipped.top) * (clipped.right - clipped.left);
  return static_cast<float>(weight * (1.0 - area / static_cast<double>(height * width)));
}

// What one sample takes from itself and from its partner in one channel, outside the box:
// own · x + other · y + shift, and inside it: scale · y + shift.
struct Share {
  float own, other, scale, shift;
};

// Not normalised: scale 1, shift 0, and the result is own · x + other · y, each product rounded.
FTBENCH_SHARED Share share(float weight, float scale, float shift) {
  return {weight * scale, (1.0f - weight) * scale, scale, shift};
}

// A call's sizes and addresses. Tensors are dense; `*_last` says that channels are innermost,
// (B, H, W, C) in memory, where they are otherwise (B, C, H, W). `scale` and `shift`, one number a
// channel, are null where nothing is normalised. `out` is `images` or does not overlap it.
struct Mix {
  const void* images;
  void* out;
  Element from, to;
  bool images_last, out_last;
  int64_t batch, channels, height, width;
  const int64_t* partner;
  const float* weight;
  const int32_t* box;
  const float* scale;
  const float* shift;

  FTBENCH_SHARED int64_t pixels() const { return height * width; }
  FTBENCH_SHARED bool in_place() const { return images == out; }
};

// Where a channel of a pixel lies, in elements from the start of a batch. 64 bits: a batch may
// hold more than 2^31 elements.
FTBENCH_SHARED int64_t offset(bool last, int64_t channels, int64_t pixels, int64_t image,
                              int64_t channel, int64_t pixel) {
  const int64_t within = last ? pixel * channels + channel : channel * pixels + pixel;
  return image * channels * pixels + within;
}

}  // namespace ftbench
