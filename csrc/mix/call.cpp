// Mixing: from tensors to what the kernels need.
#include "call.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "../tensors.h"

namespace ftbench {
namespace {

void check_field(const char* name, const at::Tensor& field, at::ScalarType type,
                 at::IntArrayRef shape) {
  TORCH_CHECK_TYPE(field.scalar_type() == type, "plan.", name, " has dtype ",
                   field.scalar_type(), ", expected ", type);
  TORCH_CHECK_VALUE(field.sizes() == shape, "plan.", name, " has shape ", field.sizes(),
                    ", expected ", shape);
}

void check_beside(const char* name, const at::Tensor& field, const at::Tensor& images) {
  TORCH_CHECK_VALUE(field.device() == images.device(), "the plan's ", name, " is on ",
                    field.device(), ", images on ", images.device());
}

bool overlap(const at::Tensor& a, const at::Tensor& b) {
  const auto [a_start, a_end] = extent(a);
  const auto [b_start, b_end] = extent(b);
  return a_start < b_end && b_start < a_end;
}

struct Settled {
  at::Tensor images;  // dense
  at::Tensor out;     // dense
  bool in_place;
};

// Dense tensors that do not overlap unless they are the same.
Settled settle(const at::Tensor& images, const at::Tensor& out) {
  Settled settled{images, out, false};
  const bool bytes = images.scalar_type() == at::kByte;
  if (bytes) {
    settled.images = images.contiguous();
  } else if (!plain(images)) {
    settled.images = images.contiguous();
  }
  if (!plain(out)) settled.out = at::empty_like(out, at::MemoryFormat::Contiguous);
  settled.in_place = !bytes && settled.images.const_data_ptr() == settled.out.const_data_ptr() &&
                   settled.images.scalar_type() == settled.out.scalar_type() &&
                   settled.images.strides() == settled.out.strides();
  if (!settled.in_place && overlap(settled.images, settled.out)) settled.images = settled.images.clone();
  return settled;
}

// (B, C, H, W) for images of that shape, or for bytes of shape (B, H, W, C).
std::vector<int64_t> mixed_shape(const at::Tensor& images) {
  TORCH_CHECK_VALUE(images.dim() == 4, "images have shape ", images.sizes(), ", expected ",
                    images.scalar_type() == at::kByte ? "(B, H, W, C)" : "(B, C, H, W)");
  const auto size = images.sizes();
  if (images.scalar_type() == at::kByte) return {size[0], size[3], size[1], size[2]};
  return size.vec();
}

}  // namespace

bool channels_innermost(const at::Tensor& tensor) {
  return !tensor.is_contiguous() && tensor.is_contiguous(at::MemoryFormat::ChannelsLast);
}

at::Tensor empty_mixed(const at::Tensor& images, at::ScalarType dtype) {
  TORCH_CHECK_VALUE(images.dim() == 4, "images have ", images.dim(), " dimensions, expected 4");
  const bool bytes = images.scalar_type() == at::kByte;
  auto shape = images.sym_sizes().vec();
  if (bytes) shape = {shape[0], shape[3], shape[1], shape[2]};
  const bool last = !bytes && channels_innermost(images);
  const auto format = last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  return at::empty_symint(shape, images.options().dtype(dtype).memory_format(format));
}

MixCall::MixCall(const at::Tensor& images, const at::Tensor& partner, const at::Tensor& weight,
                 const at::Tensor& box, at::ArrayRef<double> mean, at::ArrayRef<double> std,
                 const at::Tensor& out) {
  const std::vector<int64_t> shape = mixed_shape(images);
  mix.from = element_of("images", images.scalar_type());
  mix.to = float_element_of("out", out.scalar_type());
  TORCH_CHECK_VALUE(out.sizes() == at::IntArrayRef(shape) && out.device() == images.device(),
                    "out is ", out.sizes(), " on ", out.device(), ", expected ",
                    at::IntArrayRef(shape), " on ", images.device());
  TORCH_CHECK_VALUE(elements_apart(out), "out has strides ", out.strides(),
                    ": several elements would share a single memory location");
  const int64_t batch = shape[0];
  check_field("partner", partner, at::kLong, {batch});
  check_field("weight", weight, at::kFloat, {batch});
  check_field("box", box, at::kInt, {batch, 4});
  check_beside("partner", partner, images);
  check_beside("weight", weight, images);
  check_beside("box", box, images);
  plan[0] = partner.contiguous();
  plan[1] = weight.contiguous();
  plan[2] = box.contiguous();
  check_indices("plan.partner", plan[0], batch);
  TORCH_CHECK_VALUE(batch <= std::numeric_limits<int32_t>::max(), "the batch has ", batch,
                    " images, expected fewer than 2^31");
  mix.batch = batch;
  mix.channels = shape[1];
  mix.height = shape[2];
  mix.width = shape[3];
  mix.partner = plan[0].const_data_ptr<int64_t>();
  mix.weight = plan[1].const_data_ptr<float>();
  mix.box = plan[2].const_data_ptr<int32_t>();
  scales = Scales(mean, std, mix.channels, mix.from == Element::kByte ? 255.0 : 1.0);
  mix.scale = scales.scale_data();
  mix.shift = scales.shift_data();
  empty = out.numel() == 0;
  if (!empty) bind(images, out);
}

LabelCall::LabelCall(const at::Tensor& weight, const at::Tensor& box, int64_t height,
                     int64_t width)
    : height(height), width(width) {
  check_field("weight", weight, at::kFloat, {weight.numel()});
  check_field("box", box, at::kInt, {weight.numel(), 4});
  TORCH_CHECK_VALUE(box.device() == weight.device(), "plan.box is on ", box.device(),
                    ", plan.weight on ", weight.device());
  TORCH_CHECK_VALUE(height > 0 && width > 0, "the images' size is ", height, "×", width,
                    ", expected at least 1×1");
  this->weight = weight.contiguous();
  this->box = box.contiguous();
  out = at::empty_like(this->weight);
}

void MixCall::bind(const at::Tensor& images, const at::Tensor& out) {
  Settled settled = settle(images, out);
  source = settled.images;
  target = settled.out;
  mix.images = source.const_data_ptr();
  mix.out = target.mutable_data_ptr();
  mix.images_last = mix.from == Element::kByte || channels_innermost(source);
  mix.out_last = channels_innermost(target);
  // With one channel or one pixel both orders are the same.
  if (mix.channels == 1 || mix.pixels() == 1) mix.images_last = mix.out_last = false;
}

void MixCall::fit_gpu() {
  if (!mix.in_place() || mix.batch <= kMostImagesInSlab) return;
  source = source.clone();
  mix.images = source.const_data_ptr();
}

void MixCall::finish(const at::Tensor& out) const { hand_over(target, out); }

Normalization normalization_of(const Mix& mix) {
  Normalization norm{};
  TORCH_CHECK_VALUE(std::max(mix.height, mix.width * mix.channels) < kMostRowElements,
                    "the images have ", mix.height, " rows of ", mix.width * mix.channels,
                    " values, expected fewer than 2^31 of each on a GPU");
  if (!mix.scale) return norm;
  TORCH_CHECK_VALUE(mix.channels <= kMostChannels, "the images have ", mix.channels,
                    " channels, expected at most ", kMostChannels, " to normalise on a GPU");
  std::copy_n(mix.scale, mix.channels, norm.scale);
  std::copy_n(mix.shift, mix.channels, norm.shift);
  return norm;
}

}  // namespace ftbench
