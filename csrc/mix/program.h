// What one GPU thread does when a batch is mixed. The GPU runs it in mix/cuda.cu; tests run it on
// the CPU (mix_as_gpu in ops.cpp), thread after thread.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <type_traits>

#include "mix.h"

namespace ftbench {

constexpr int kThreads = 256;
constexpr int64_t kImagesPerThread = 8;    // places in an image are worked out once for so many
constexpr int64_t kMostChannels = 128;     // that a call can normalise
constexpr int64_t kMostStepsInShared = 2048;

struct Normalization {
  float scale[kMostChannels], shift[kMostChannels];
};

// kSize values of 2^n bytes, moved by one instruction.
template <class T, int kSize>
struct alignas(sizeof(T) * kSize) Pack {
  T at[kSize];
};

template <class T, int kSize>
FTBENCH_SHARED Pack<T, kSize> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, kSize>*>(p);
}

FTBENCH_SHARED float mix_value(float own, float other, bool inside, float weight, bool normalized,
                               const Share& part) {
  const bool only_own = !inside && weight == 1.0f, only_other = inside || weight == 0.0f;
  if (normalized) {
    if (only_other) return fmaf(part.scale, other, part.shift);
    if (only_own) return fmaf(part.scale, own, part.shift);
    return fmaf(part.own, own, fmaf(part.other, other, part.shift));
  }
  if (only_other) return other;
  if (only_own) return own;
  return part.own * own + part.other * other;
}

// Where the values that a thread writes lie in an image. kSize neighbours in the result.
struct Place {
  int64_t value;     // the first, in elements from the image's start in the result
  int32_t channel, row, column;
};

FTBENCH_SHARED Place place_of(const Mix& mix, int64_t value) {
  const int64_t pixel = mix.out_last ? value / mix.channels : value % mix.pixels();
  const int64_t channel = mix.out_last ? value % mix.channels : value / mix.pixels();
  return {value, static_cast<int32_t>(channel), static_cast<int32_t>(pixel / mix.width),
          static_cast<int32_t>(pixel % mix.width)};
}

// The next value's place.
FTBENCH_SHARED void advance(const Mix& mix, Place& place) {
  ++place.value;
  if (mix.out_last && ++place.channel < mix.channels) return;
  if (mix.out_last) place.channel = 0;
  if (++place.column < mix.width) return;
  place.column = 0;
  if (++place.row < mix.height) return;
  place.row = 0;
  ++place.channel;
}

FTBENCH_SHARED Share share_at(const Mix& mix, const Normalization& norm, float weight,
                              int32_t channel) {
  return mix.scale ? share(weight, norm.scale[channel], norm.shift[channel])
                   : share(weight, 1.0f, 0.0f);
}

// Writes kSize values of image `image`, whose own and partner's values are given.
template <class In, class Out, int kSize>
FTBENCH_SHARED void write_pack(const Mix& mix, const Normalization& norm, Place place,
                               int64_t image, const Pack<In, kSize>& own,
                               const Pack<In, kSize>& other) {
  const Box box = clip(mix.box + 4 * image, mix.height, mix.width);
  const float weight = mix.weight[image];
  Pack<Out, kSize> result;
  const int64_t start = place.value;
  for (int i = 0; i < kSize; ++i) {
    result.at[i] = static_cast<Out>(
        mix_value(static_cast<float>(own.at[i]), static_cast<float>(other.at[i]),
                  box.holds(place.row, place.column), weight, mix.scale != nullptr,
                  share_at(mix, norm, weight, place.channel)));
    advance(mix, place);
  }
  Out* out = static_cast<Out*>(mix.out) + image * mix.channels * mix.pixels() + start;
  *reinterpret_cast<Pack<Out, kSize>*>(out) = result;
}

FTBENCH_SHARED int64_t groups_of(const Mix& mix) {
  return (mix.batch + kImagesPerThread - 1) / kImagesPerThread;
}

// Packs of an image. The images of one place come one after the other, so
// that a partner's values are still in the second-level cache.
template <int kSize>
FTBENCH_SHARED int64_t packs_of(const Mix& mix) {
  return mix.channels * mix.pixels() / kSize;
}
// Blocks of threads for so many packs of every image.
FTBENCH_SHARED int64_t blocks_for(const Mix& mix, int64_t packs) {
  return (packs + kThreads - 1) / kThreads * groups_of(mix);
}

// The images lie as the result does, or kSize is 1.
template <class In, class Out, int kSize>
FTBENCH_SHARED void mix_group(const Mix& mix, const Normalization& norm, int64_t block,
                              int thread) {
  const int64_t groups = groups_of(mix);
  const int64_t pack = block / groups * kThreads + thread;
  if (pack >= packs_of<kSize>(mix)) return;
  const Place place = place_of(mix, pack * kSize);
  const int64_t here =
      mix.images_last == mix.out_last
          ? place.value
          : offset(mix.images_last, mix.channels, mix.pixels(), 0, place.channel,
                   place.row * mix.width + place.column);
  const int64_t size = mix.channels * mix.pixels();
  const In* images = static_cast<const In*>(mix.images) + here;
  const int64_t first = block % groups * kImagesPerThread;
  const int64_t last = first + kImagesPerThread < mix.batch ? first + kImagesPerThread : mix.batch;
  for (int64_t image = first; image < last; ++image) {
    const auto own = load_pack<In, kSize>(images + image * size);
    const auto other = load_pack<In, kSize>(images + mix.partner[image] * size);
    write_pack<In, Out>(mix, norm, place, image, own, other);
  }
}

// kSize pixels of three bytes each, to three planes.
template <class Out, int kSize>
FTBENCH_SHARED void mix_triples(const Mix& mix, const Normalization& norm, int64_t block,
                                int thread) {
  const int64_t groups = groups_of(mix);
  const int64_t pixel = (block / groups * kThreads + thread) * kSize;
  if (pixel >= mix.pixels()) return;
  const int64_t size = 3 * mix.pixels();
  const uint8_t* images = static_cast<const uint8_t*>(mix.images) + 3 * pixel;
  const int64_t first = block % groups * kImagesPerThread;
  const int64_t last = first + kImagesPerThread < mix.batch ? first + kImagesPerThread : mix.batch;
  for (int64_t image = first; image < last; ++image) {
    Pack<uint8_t, 4> own[3 * kSize / 4], other[3 * kSize / 4];
    for (int i = 0; i < 3 * kSize / 4; ++i) {
      own[i] = load_pack<uint8_t, 4>(images + image * size + 4 * i);
      other[i] = load_pack<uint8_t, 4>(images + mix.partner[image] * size + 4 * i);
    }
    for (int c = 0; c < 3; ++c) {
      Pack<uint8_t, kSize> mine, theirs;
      for (int i = 0; i < kSize; ++i) {
        mine.at[i] = own[(3 * i + c) / 4].at[(3 * i + c) % 4];
        theirs.at[i] = other[(3 * i + c) / 4].at[(3 * i + c) % 4];
      }
      const Place place = place_of(mix, c * mix.pixels() + pixel);
      write_pack<uint8_t, Out>(mix, norm, place, image, mine, theirs);
    }
  }
}

constexpr int kDepth = 4;  // steps whose values are on their way from memory at the same time

// One pack of every image, overwritten in the order of `steps`: each value is read once.
template <class T, int kSize>
FTBENCH_SHARED void mix_in_place(const Mix& mix, const Normalization& norm, const Step* steps,
                                 int64_t pack) {
  const Place place = place_of(mix, pack * kSize);
  const int64_t size = mix.channels * mix.pixels();
  const T* images = static_cast<const T*>(mix.images) + place.value;
  Pack<T, kSize> kept{}, last{};
  int64_t at_hand = -1;  // whose values `last` holds
  for (int64_t k = 0; k < mix.batch; k += kDepth) {
    Pack<T, kSize> own[kDepth], other[kDepth];
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int j = 0; j < kDepth; ++j) {
      if (k + j >= mix.batch) break;
      const Step step = steps[k + j];
      own[j] = at_hand == step.image ? last : load_pack<T, kSize>(images + step.image * size);
      if (step.keep) kept = own[j];
      at_hand = mix.partner[step.image];
      last = step.from_kept ? kept : load_pack<T, kSize>(images + at_hand * size);
      other[j] = last;
    }
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int j = 0; j < kDepth; ++j) {
      if (k + j >= mix.batch) break;
      write_pack<T, T>(mix, norm, place, steps[k + j].image, own[j], other[j]);
    }
  }
}

// Chooses the program for a batch: `run` has groups<In, Out, kSize>(), triples<Out, kSize>() and
// in_place<T, kSize>(), and its result is returned. Host code.
inline bool on_sixteen_bytes(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <class In, class Out, class Run>
auto dispatch_pair(const Mix& mix, const Run& run) {
  constexpr int kSize = 16 / sizeof(Out);
  const bool alike = mix.images_last == mix.out_last;
  const bool aligned = on_sixteen_bytes(mix.images) && on_sixteen_bytes(mix.out);
  const bool packs = aligned && alike && mix.channels * mix.pixels() % kSize == 0;
  if constexpr (std::is_same_v<In, Out>) {
    if (mix.in_place()) {
      return packs ? run.template in_place<In, kSize>() : run.template in_place<In, 1>();
    }
  }
  if (packs) return run.template groups<In, Out, kSize>();
  if constexpr (sizeof(In) == 1) {
    if (aligned && !alike && mix.channels == 3 && mix.pixels() % kSize == 0) {
      return run.template triples<Out, kSize>();
    }
  }
  return run.template groups<In, Out, 1>();
}

template <class In, class Run>
auto dispatch_from(const Mix& mix, const Run& run) {
  switch (mix.to) {
    case Element::kHalf:
      return dispatch_pair<In, c10::Half>(mix, run);
    case Element::kBFloat16:
      return dispatch_pair<In, c10::BFloat16>(mix, run);
    default:
      return dispatch_pair<In, float>(mix, run);
  }
}

template <class Run>
auto dispatch(const Mix& mix, const Run& run) {
  switch (mix.from) {
    case Element::kByte:
      return dispatch_from<uint8_t>(mix, run);
    case Element::kHalf:
      return dispatch_from<c10::Half>(mix, run);
    case Element::kBFloat16:
      return dispatch_from<c10::BFloat16>(mix, run);
    default:
      return dispatch_from<float>(mix, run);
  }
}

}  // namespace ftbench
