// What one GPU thread does of a batch of views: one pixel of one image, in all its channels.
#pragma once

#include "../mix/program.h"
#include "augment.h"

namespace ftbench {

constexpr int kChannelsAtOnce = 4;

// Adds `share` times a pixel of an image's view, in kChannelsAtOnce channels from `channel` on.
FTBENCH_SHARED void add_view(const Augment& call, int64_t image, int64_t row, int64_t column,
                             int64_t channel, float share, float* sums) {
  const float* crop = call.crop + 4 * image;
  const Side down = side_of(crop[0], crop[2], call.store_height, call.height);
  const Side across = side_of(crop[1], crop[3], call.store_width, call.width);
  const float y = down.centre(row);
  const float x = across.centre(call.flip[image] ? call.width - 1 - column : column);
  const Foot rows = foot_of(down, y), columns = foot_of(across, x);
  const int64_t stride = call.store_width * call.channels;
  const uint8_t* corner = call.image(image) + (down.begin + rows.first) * stride +
                          (across.begin + columns.first) * call.channels + channel;
  const int64_t left = call.channels - channel;
  const int channels = left < kChannelsAtOnce ? static_cast<int>(left) : kChannelsAtOnce;
  float view[kChannelsAtOnce] = {0.0f, 0.0f, 0.0f, 0.0f};
  float down_sum = 0.0f, across_sum = 0.0f;
  for (int32_t i = 0; i < columns.count; ++i) {
    across_sum += weight_at(across, x, columns.first + i);
  }
  for (int32_t j = 0; j < rows.count; ++j) {
    const float upright = weight_at(down, y, rows.first + j);
    down_sum += upright;
    const uint8_t* from = corner + j * stride;
    float line[kChannelsAtOnce] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int32_t i = 0; i < columns.count; ++i, from += call.channels) {
      const float weight = weight_at(across, x, columns.first + i);
      for (int c = 0; c < channels; ++c) line[c] += weight * static_cast<float>(from[c]);
    }
    for (int c = 0; c < channels; ++c) view[c] += upright * line[c];
  }
  // A crop thinner than rounding: its one pixel.
  if (!(down_sum > 0.0f && across_sum > 0.0f)) {
    for (int c = 0; c < channels; ++c) sums[c] += share * static_cast<float>(corner[c]);
    return;
  }
  const float whole = share / (down_sum * across_sum);
  for (int c = 0; c < channels; ++c) sums[c] += whole * view[c];
}

template <class Out>
FTBENCH_SHARED void augment_pixel(const Augment& call, const Normalization& norm, int64_t index) {
  const int64_t image = index / call.pixels(), pixel = index % call.pixels();
  const int64_t row = pixel / call.width, column = pixel % call.width;
  float own = 1.0f;
  int64_t partner = image;
  if (call.partner) {
    partner = call.partner[image];
    own = call.clipped_box(image).holds(row, column) ? 0.0f : call.weight[image];
  }
  Out* out = static_cast<Out*>(call.out);
  for (int64_t channel = 0; channel < call.channels; channel += kChannelsAtOnce) {
    float sums[kChannelsAtOnce] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (own != 0.0f) add_view(call, image, row, column, channel, own, sums);
    if (own != 1.0f) add_view(call, partner, row, column, channel, 1.0f - own, sums);
    for (int c = 0; c < kChannelsAtOnce && channel + c < call.channels; ++c) {
      const float value =
          call.scale ? sums[c] * norm.scale[channel + c] + norm.shift[channel + c] : sums[c];
      out[offset(call.out_last, call.channels, call.pixels(), image, channel + c, pixel)] =
          static_cast<Out>(value);
    }
  }
}

}  // namespace ftbench
