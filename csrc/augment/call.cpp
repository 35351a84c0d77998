// Views: from tensors to what the kernels need.
#include "call.h"

#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <limits>

#include "../mix/call.h"
#include "../tensors.h"

namespace ftbench {
namespace {

at::Tensor field(const char* name, const at::Tensor& tensor, at::ScalarType type,
                 at::IntArrayRef shape, const at::Tensor& store) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == type, name, " has dtype ", tensor.scalar_type(),
                   ", expected ", type);
  TORCH_CHECK_VALUE(tensor.sizes() == shape, name, " has shape ", tensor.sizes(), ", expected ",
                    shape);
  TORCH_CHECK_VALUE(tensor.device() == store.device(), name, " is on ", tensor.device(),
                    ", the store on ", store.device());
  return tensor.contiguous();
}

void check_crops(const at::Tensor& crop, int64_t height, int64_t width) {
  if (!crop.is_cpu()) return;
  const float* values = crop.const_data_ptr<float>();
  for (int64_t i = 0; i < crop.size(0); ++i, values += 4) {
    const double bottom = static_cast<double>(values[0]) + values[2];
    const double right = static_cast<double>(values[1]) + values[3];
    // Sums of rounded numbers reach a little beyond. Written so that NaN is refused as well.
    const bool inside = values[0] >= 0 && values[1] >= 0 && values[2] > 0 && values[3] > 0 &&
                        bottom <= height * (1 + 1e-6) && right <= width * (1 + 1e-6);
    TORCH_CHECK_VALUE(inside, "plan.crop holds [", values[0], ", ", values[1], ", ", values[2],
                      ", ", values[3], "], expected [top, left, height, width) within ", height,
                      "×", width);
  }
}

}  // namespace

AugmentCall::AugmentCall(const at::Tensor& store, const at::Tensor& rows, const at::Tensor& crop,
                         const at::Tensor& flip, const OptionalTensor& partner,
                         const OptionalTensor& weight, const OptionalTensor& box,
                         at::ArrayRef<double> mean, at::ArrayRef<double> std,
                         const at::Tensor& out) {
  TORCH_CHECK_TYPE(store.scalar_type() == at::kByte, "store has dtype ", store.scalar_type(),
                   ", expected uint8");
  TORCH_CHECK_VALUE(store.dim() == 4, "store has shape ", store.sizes(),
                    ", expected (N, H, W, C)");
  TORCH_CHECK_VALUE(store.is_contiguous(), "store has strides ", store.strides(),
                    ", expected a contiguous one: a copy would take its whole size");
  const int64_t batch = rows.numel(), channels = store.size(3);
  TORCH_CHECK_VALUE(out.dim() == 4 && out.size(0) == batch && out.size(1) == channels,
                    "out has shape ", out.sizes(), ", expected ", batch, " images of ", channels,
                    " channels");
  augment.to = float_element_of("out", out.scalar_type());
  TORCH_CHECK_VALUE(out.device() == store.device(), "out is on ", out.device(), ", the store on ",
                    store.device());
  TORCH_CHECK_VALUE(elements_apart(out), "out has strides ", out.strides(),
                    ": several elements would share a single memory location");
  this->store = store;
  this->rows = field("rows", rows, at::kLong, {batch}, store);
  this->crop = field("plan.crop", crop, at::kFloat, {batch, 4}, store);
  this->flip = field("plan.flip", flip, at::kBool, {batch}, store);
  empty = out.numel() == 0;
  const bool mixed = partner.has_value();
  TORCH_CHECK_VALUE(mixed == weight.has_value() && mixed == box.has_value(),
                    "mix has some of partner, weight and box, expected all or none");
  if (mixed) {
    mix[0] = field("mix.partner", *partner, at::kLong, {batch}, store);
    mix[1] = field("mix.weight", *weight, at::kFloat, {batch}, store);
    mix[2] = field("mix.box", *box, at::kInt, {batch, 4}, store);
    check_indices("mix.partner", mix[0], batch);
  }
  TORCH_CHECK_VALUE(batch <= std::numeric_limits<int32_t>::max(), "the batch has ", batch,
                    " images, expected fewer than 2^31");
  augment.channels = channels;
  scales = Scales(mean, std, channels, 255.0);
  augment.scale = scales.scale_data();
  augment.shift = scales.shift_data();
  if (empty) return;
  check_indices("rows", this->rows, store.size(0));
  check_crops(this->crop, store.size(1), store.size(2));
  // Where rows are a few pixels wide, indices within one still fit 32 bits.
  TORCH_CHECK_VALUE((store.size(2) + 2) * channels < std::numeric_limits<int32_t>::max() / 4 &&
                        store.size(1) < std::numeric_limits<int32_t>::max() / 4,
                    "the store's images have ", store.size(1), " rows of ",
                    store.size(2) * channels, " values, expected fewer than 2^29 of each");
  target = out;
  if (!plain(out)) target = at::empty_like(out, at::MemoryFormat::Contiguous);
  augment.store = store.const_data_ptr<uint8_t>();
  augment.store_height = store.size(1);
  augment.store_width = store.size(2);
  augment.rows = this->rows.const_data_ptr<int64_t>();
  augment.crop = this->crop.const_data_ptr<float>();
  augment.flip = this->flip.const_data_ptr<bool>();
  augment.batch = batch;
  augment.height = out.size(2);
  augment.width = out.size(3);
  if (mixed) {
    augment.partner = mix[0].const_data_ptr<int64_t>();
    augment.weight = mix[1].const_data_ptr<float>();
    augment.box = mix[2].const_data_ptr<int32_t>();
  }
  augment.out = target.mutable_data_ptr();
  augment.out_last = channels > 1 && channels_innermost(target);
}

Normalization AugmentCall::normalization() const {
  Normalization norm{};
  if (!augment.scale) return norm;
  TORCH_CHECK_VALUE(augment.channels <= kMostChannels, "the store has ", augment.channels,
                    " channels, expected at most ", kMostChannels, " to normalise on a GPU");
  std::copy_n(augment.scale, augment.channels, norm.scale);
  std::copy_n(augment.shift, augment.channels, norm.shift);
  return norm;
}

void AugmentCall::finish(const at::Tensor& out) const { hand_over(target, out); }

}  // namespace ftbench
