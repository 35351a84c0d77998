// What one GPU thread does when a batch is mixed. The GPU runs it in mix/cuda.cu; tests run it on
// the CPU (mix_as_gpu in mix.cpp), thread after thread.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#include "mix.h"

namespace ftbench {

constexpr int kThreads = 256;
constexpr int64_t kImagesPerThread = 8;    // places in an image are worked out once for so many
constexpr int64_t kMostChannels = 128;     // that a call can normalise
constexpr int64_t kMostRowElements = int64_t{1} << 31;  // places in a row are of 32 bits
constexpr int64_t kMostStepsInShared = 2048;

struct Normalization {
  float scale[kMostChannels], shift[kMostChannels];
};

// kSize values, moved by sixteen bytes at most: words, since the compiler moves those together.
template <class T, int kSize>
struct Pack {
  T at[kSize];
};

// The unit that so many bytes are moved by, and how often.
template <int kBytes>
struct Unit {
#if defined(__CUDACC__)
  using Type = std::conditional_t<kBytes % 16 == 0, uint4,
                                  std::conditional_t<kBytes % 8 == 0, uint2, uint32_t>>;
#else
  struct alignas(kBytes % 16 == 0 ? 16 : kBytes % 8 == 0 ? 8 : 4) Type {
    uint32_t word[kBytes % 16 == 0 ? 4 : kBytes % 8 == 0 ? 2 : 1];
  };
#endif
  static constexpr int kCount = kBytes / sizeof(Type);
};

template <class T, int kSize>
FTBENCH_SHARED Pack<T, kSize> load_pack(const T* p) {
  Pack<T, kSize> pack;
  if constexpr (kSize * sizeof(T) % 4 == 0) {
    using Moved = Unit<kSize * sizeof(T)>;
    typename Moved::Type units[Moved::kCount];
    for (int i = 0; i < Moved::kCount; ++i) {
      units[i] = reinterpret_cast<const typename Moved::Type*>(p)[i];
    }
    memcpy(&pack, units, sizeof pack);
  } else {
    for (int i = 0; i < kSize; ++i) pack.at[i] = p[i];
  }
  return pack;
}

template <class T, int kSize>
FTBENCH_SHARED void store_pack(T* p, const Pack<T, kSize>& pack) {
  if constexpr (kSize * sizeof(T) % 4 == 0) {
    using Moved = Unit<kSize * sizeof(T)>;
    typename Moved::Type units[Moved::kCount];
    memcpy(units, &pack, sizeof pack);
    for (int i = 0; i < Moved::kCount; ++i) {
#if defined(__CUDA_ARCH__)
      // An assignment is split into one store for each word.
      __stwb(reinterpret_cast<typename Moved::Type*>(p) + i, units[i]);
#else
      reinterpret_cast<typename Moved::Type*>(p)[i] = units[i];
#endif
    }
  } else {
    for (int i = 0; i < kSize; ++i) p[i] = pack.at[i];
  }
}

// Where the kSize neighbours that a thread writes lie in an image, worked out once for all images.
// They are in one row, or in it and the next.
template <int kSize>
struct Place {
  int64_t value;       // the first, in elements from the image's start in the result
  int32_t channel, row;
  int32_t row_start;   // where the row begins, counted from the first; at most 0
  int32_t row_size;    // in elements: `depth` neighbours are the channels of one pixel
  int32_t depth;
  float scale[kSize], shift[kSize];
};

// Whether packs of kSize neighbours are in one row or two.
template <int kSize>
FTBENCH_SHARED bool rows_hold_packs(const Mix& mix) {
  if (mix.out_last) return mix.width * mix.channels >= kSize;
  return mix.width >= kSize && mix.pixels() % kSize == 0;
}

template <int kSize>
FTBENCH_SHARED Place<kSize> place_of(const Mix& mix, const Normalization& norm, int64_t value) {
  const int64_t pixel = mix.out_last ? value / mix.channels : value % mix.pixels();
  const int64_t channel = mix.out_last ? value % mix.channels : value / mix.pixels();
  Place<kSize> place;
  place.value = value;
  place.channel = static_cast<int32_t>(channel);
  place.row = static_cast<int32_t>(pixel / mix.width);
  place.depth = static_cast<int32_t>(mix.out_last ? mix.channels : 1);
  place.row_size = static_cast<int32_t>(mix.width) * place.depth;
  place.row_start = -static_cast<int32_t>(pixel % mix.width) * place.depth -
                    (mix.out_last ? place.channel : 0);
  for (int i = 0; i < kSize; ++i) {
    const int64_t of = mix.out_last ? (channel + i) % mix.channels : channel;
    place.scale[i] = mix.scale ? norm.scale[of] : 1.0f;
    place.shift[i] = mix.scale ? norm.shift[of] : 0.0f;
  }
  return place;
}

FTBENCH_SHARED int32_t between(int32_t value, int32_t low, int32_t high) {
  return value < low ? low : value > high ? high : value;
}

// Bit i is set where the i-th neighbour lies in the box.
template <int kSize>
FTBENCH_SHARED uint32_t inside_bits(const Box& box, const Place<kSize>& place) {
  uint32_t bits = 0;
  int32_t start = place.row_start;
  for (int32_t row = place.row; row <= place.row + 1; ++row, start += place.row_size) {
    if (row < box.top || row >= box.bottom) continue;
    const int32_t first = between(start + box.left * place.depth, 0, kSize);
    const int32_t last = between(start + box.right * place.depth, 0, kSize);
    bits |= ((1u << last) - 1u) & ~((1u << first) - 1u);
  }
  return bits;
}

// What an image is outside its box.
enum class Outside { kOwn, kPartner, kBoth };

template <Outside kOutside, class In, class Out, int kSize>
FTBENCH_SHARED Pack<Out, kSize> mix_pack(const Place<kSize>& place, bool normalized, float weight,
                                         uint32_t inside, const Pack<In, kSize>& own,
                                         const Pack<In, kSize>& other) {
  Pack<Out, kSize> result;
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
  for (int i = 0; i < kSize; ++i) {
    const float x = static_cast<float>(own.at[i]), y = static_cast<float>(other.at[i]);
    const float scale = place.scale[i], shift = place.shift[i];
    const float pasted = normalized ? fmaf(scale, y, shift) : y;
    float mixed = pasted;
    if constexpr (kOutside == Outside::kOwn) mixed = normalized ? fmaf(scale, x, shift) : x;
    if constexpr (kOutside == Outside::kBoth) {
      const Share part = share(weight, scale, shift);
      mixed = normalized ? fmaf(part.own, x, fmaf(part.other, y, shift))
                         : part.own * x + part.other * y;
    }
    result.at[i] = static_cast<Out>(inside >> i & 1 ? pasted : mixed);
  }
  return result;
}

// Writes the neighbours at `place` of one image, whose own and partner's values are given. All
// threads of a block take the same branches.
template <class In, class Out, int kSize>
FTBENCH_SHARED void write_pack(const Mix& mix, const Place<kSize>& place, int64_t image,
                               const Pack<In, kSize>& own, const Pack<In, kSize>& other) {
  const uint32_t inside = inside_bits(clip(mix.box + 4 * image, mix.height, mix.width), place);
  const float weight = mix.weight[image];
  const bool normalized = mix.scale != nullptr;
  Pack<Out, kSize> result;
  if (weight == 1.0f) {
    result = mix_pack<Outside::kOwn, In, Out>(place, normalized, weight, inside, own, other);
  } else if (weight == 0.0f) {
    result = mix_pack<Outside::kPartner, In, Out>(place, normalized, weight, inside, own, other);
  } else {
    result = mix_pack<Outside::kBoth, In, Out>(place, normalized, weight, inside, own, other);
  }
  Out* out = static_cast<Out*>(mix.out) + image * mix.channels * mix.pixels() + place.value;
  store_pack(out, result);
}

FTBENCH_SHARED int64_t groups_of(const Mix& mix) {
  return (mix.batch + kImagesPerThread - 1) / kImagesPerThread;
}

// Packs of an image. The images of one place come one after the other, so that a partner's values
// are still in the second-level cache.
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
  const Place<kSize> place = place_of<kSize>(mix, norm, pack * kSize);
  const int64_t pixel = place.row * mix.width - place.row_start / place.depth;
  const int64_t here = mix.images_last == mix.out_last
                           ? place.value
                           : offset(mix.images_last, mix.channels, mix.pixels(), 0, place.channel,
                                    pixel);
  const int64_t size = mix.channels * mix.pixels();
  const In* images = static_cast<const In*>(mix.images) + here;
  const int64_t first = block % groups * kImagesPerThread;
  const int64_t last = first + kImagesPerThread < mix.batch ? first + kImagesPerThread : mix.batch;
  auto own = load_pack<In, kSize>(images + first * size);
  auto other = load_pack<In, kSize>(images + mix.partner[first] * size);
  for (int64_t image = first; image < last; ++image) {
    // The next values are on their way while these are mixed.
    const int64_t next = image + 1 < last ? image + 1 : image;
    const auto own_next = load_pack<In, kSize>(images + next * size);
    const auto other_next = load_pack<In, kSize>(images + mix.partner[next] * size);
    write_pack<In, Out>(mix, place, image, own, other);
    own = own_next;
    other = other_next;
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
  Place<kSize> places[3];
  for (int c = 0; c < 3; ++c) places[c] = place_of<kSize>(mix, norm, c * mix.pixels() + pixel);
  for (int64_t image = first; image < last; ++image) {
    uint8_t own[3 * kSize], other[3 * kSize];
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int i = 0; i < 3 * kSize; i += 4) {
      const auto mine = load_pack<uint8_t, 4>(images + image * size + i);
      const auto theirs = load_pack<uint8_t, 4>(images + mix.partner[image] * size + i);
      for (int j = 0; j < 4; ++j) {
        own[i + j] = mine.at[j];
        other[i + j] = theirs.at[j];
      }
    }
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int c = 0; c < 3; ++c) {
      Pack<uint8_t, kSize> mine, theirs;
      for (int i = 0; i < kSize; ++i) {
        mine.at[i] = own[3 * i + c];
        theirs.at[i] = other[3 * i + c];
      }
      write_pack<uint8_t, Out>(mix, places[c], image, mine, theirs);
    }
  }
}

constexpr int kDepth = 4;  // steps whose values are on their way from memory at the same time

// One pack of every image, overwritten in the order of `steps`: each value is read once.
template <class T, int kSize>
FTBENCH_SHARED void mix_in_place(const Mix& mix, const Normalization& norm, const Step* steps,
                                 int64_t pack) {
  const Place<kSize> place = place_of<kSize>(mix, norm, pack * kSize);
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
      write_pack<T, T>(mix, place, steps[k + j].image, own[j], other[j]);
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
  const bool packs = aligned && alike && mix.channels * mix.pixels() % kSize == 0 &&
                     rows_hold_packs<kSize>(mix);
  if constexpr (std::is_same_v<In, Out>) {
    if (mix.in_place()) {
      return packs ? run.template in_place<In, kSize>() : run.template in_place<In, 1>();
    }
  }
  if (packs) return run.template groups<In, Out, kSize>();
  if constexpr (sizeof(In) == 1) {
    if (aligned && !alike && mix.channels == 3 && rows_hold_packs<kSize>(mix)) {
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
