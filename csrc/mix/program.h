// What one GPU thread does when a batch is mixed: the kernels in mix/cuda.cu, which tests run on the
// CPU as well.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <type_traits>

#include "../pack.h"
#include "mix.h"

namespace ftbench {

constexpr int kThreads = 256;
constexpr int64_t kImagesPerThread = 8;    // places in an image are worked out once for so many
constexpr int64_t kMostChannels = 128;     // that a call can normalise
constexpr int64_t kMostRowElements = int64_t{1} << 31;  // places in a row are of 32 bits

struct Normalization {
  float scale[kMostChannels], shift[kMostChannels];
};

// Where the kSize neighbours that a thread writes lie in an image, worked out once for all images.
// They are in one row, or in it and the next.
struct Place {
  int64_t value, source;  // the first, in elements from the image's start, in the result and before
  int32_t channel, row;
  int32_t row_start;   // where the row begins, counted from the first; at most 0
  int32_t row_size;    // in elements: `depth` neighbours are the channels of one pixel
};

// What a place's neighbours are normalised with.
template <int kSize>
struct Factors {
  float scale[kSize], shift[kSize];
};

// What an image becomes, worked out once for all its values.
struct alignas(16) ImageMix {
  int32_t top, bottom, left, right;  // the clipped box; columns in elements of a row
  float weight;
  int32_t partner;
};

// Neighbours that are the channels of one pixel.
FTBENCH_SHARED int32_t depth_of(const Mix& mix) {
  return mix.out_last ? static_cast<int32_t>(mix.channels) : 1;
}

// Whether packs of kSize neighbours are in one row or two, and an image's places of 32 bits.
template <int kSize>
FTBENCH_SHARED bool rows_hold_packs(const Mix& mix) {
  if (mix.channels * mix.pixels() >= kMostRowElements) return false;
  if (mix.out_last) return mix.width * mix.channels >= kSize;
  return mix.width >= kSize && mix.pixels() % kSize == 0;
}

// Packs are of images whose places fit into 32 bits: a division of 64 takes four times as long.
template <int kSize>
FTBENCH_SHARED Place place_of(const Mix& mix, int64_t value) {
  using Index = std::conditional_t<kSize == 1, int64_t, uint32_t>;
  const Index at = static_cast<Index>(value), pixels = static_cast<Index>(mix.pixels());
  const Index channels = static_cast<Index>(mix.channels), width = static_cast<Index>(mix.width);
  const Index pixel = mix.out_last ? at / channels : at % pixels;
  const Index channel = mix.out_last ? at % channels : at / pixels;
  const int32_t depth = depth_of(mix);
  Place place;
  place.value = value;
  place.source = mix.images_last == mix.out_last
                     ? value
                     : offset(mix.images_last, mix.channels, mix.pixels(), 0, channel, pixel);
  place.channel = static_cast<int32_t>(channel);
  place.row = static_cast<int32_t>(pixel / width);
  place.row_size = static_cast<int32_t>(width) * depth;
  place.row_start = -static_cast<int32_t>(pixel % width) * depth - (mix.out_last ? place.channel : 0);
  return place;
}

template <int kSize>
FTBENCH_SHARED Factors<kSize> factors_of(const Mix& mix, const Normalization& norm,
                                         int32_t channel) {
  const int32_t channels = static_cast<int32_t>(mix.channels);
  Factors<kSize> factors;
  for (int i = 0; i < kSize; ++i) {
    // More channels than there are floats for may be mixed without.
    factors.scale[i] = mix.scale ? norm.scale[channel] : 1.0f;
    factors.shift[i] = mix.scale ? norm.shift[channel] : 0.0f;
    if (mix.out_last && ++channel == channels) channel = 0;
  }
  return factors;
}

FTBENCH_SHARED ImageMix image_mix_of(const Mix& mix, int64_t image) {
  const Box box = clip(mix.box + 4 * image, mix.height, mix.width);
  const int32_t depth = depth_of(mix);
  return {box.top,          box.bottom, box.left * depth, box.right * depth, mix.weight[image],
          static_cast<int32_t>(mix.partner[image])};
}

FTBENCH_SHARED int32_t between(int32_t value, int32_t low, int32_t high) {
  return value < low ? low : value > high ? high : value;
}

// Bit i is set where the i-th neighbour lies in the box.
template <int kSize>
FTBENCH_SHARED uint32_t inside_bits(const ImageMix& image_mix, const Place& place) {
  uint32_t bits = 0;
  if (image_mix.bottom == 0) return bits;
  for (int next = 0; next < 2; ++next) {
    const int32_t row = place.row + next, start = place.row_start + next * place.row_size;
    if (row < image_mix.top || row >= image_mix.bottom) continue;
    const int32_t first = between(start + image_mix.left, 0, kSize);
    const int32_t last = between(start + image_mix.right, 0, kSize);
    bits |= ((1u << last) - 1u) & ~((1u << first) - 1u);
  }
  return bits;
}

// Neighbours' floats.
template <int kSize>
struct Floats {
  float at[kSize];
};

// Those of a pack; or, of a pack of whole pixels, those of one channel.
template <int kSize, class Packed>
FTBENCH_SHARED Floats<kSize> floats_of(const Packed& pack, int channel, int channels) {
  Floats<kSize> floats;
  for (int i = 0; i < kSize; ++i) floats.at[i] = pack.value(channels * i + channel);
  return floats;
}

// All threads of a block take the same branches, but where a box has its border.
template <int kSize>
FTBENCH_SHARED Floats<kSize> mix_floats(const ImageMix& image_mix, uint32_t inside, bool fused,
                                          const Floats<kSize>& own, const Floats<kSize>& other) {
  constexpr uint32_t kAll = (1u << kSize) - 1u;
  if (inside == kAll || image_mix.weight == 0.0f) return other;
  Floats<kSize> mixed = own;
  if (image_mix.weight != 1.0f) {
    const Share part = share(image_mix.weight, 1.0f, 0.0f);
    for (int i = 0; i < kSize; ++i) {
      const float rest = part.other * other.at[i];
      mixed.at[i] = fused ? fmaf(part.own, own.at[i], rest) : part.own * own.at[i] + rest;
    }
  }
  if (inside == 0) return mixed;
  for (int i = 0; i < kSize; ++i) mixed.at[i] = inside >> i & 1 ? other.at[i] : mixed.at[i];
  return mixed;
}

// Writes neighbours of one image, whose own and partner's values are given: as many, or as many
// pixels, of which those of one channel are meant.
template <class Out, int kSize, class In, int kRead>
FTBENCH_SHARED void write_pack(const Mix& mix, const ImageMix& image_mix, uint32_t inside,
                               const Factors<kSize>& factors, int64_t value,
                               const Pack<In, kRead>& own, const Pack<In, kRead>& other,
                               int channel = 0) {
  constexpr int kChannels = kRead / kSize;
  const bool normalized = mix.scale != nullptr;
  Floats<kSize> mixed =
      mix_floats(image_mix, inside, normalized, floats_of<kSize>(own, channel, kChannels),
                  floats_of<kSize>(other, channel, kChannels));
  if (normalized) {
    for (int i = 0; i < kSize; ++i) {
      mixed.at[i] = fmaf(factors.scale[i], mixed.at[i], factors.shift[i]);
    }
  }
  Pack<Out, kSize> result;
  for (int i = 0; i < kSize; ++i) result.at[i] = static_cast<Out>(mixed.at[i]);
  store_pack(static_cast<Out*>(mix.out) + value, result);
}

// Packs of an image.
template <int kSize>
FTBENCH_SHARED int64_t packs_of(const Mix& mix) {
  return mix.channels * mix.pixels() / kSize;
}

// How a batch is cut for blocks of threads: each thread has a pack, or pixels, of some images. The
// images of one place come one after the other, so that a partner's values are still in the
// second-level cache.
struct Cut {
  int64_t size;   // values of an image
  int64_t packs;  // of an image
  uint32_t groups;
};

inline Cut cut_batch(const Mix& mix, int64_t packs) {
  const int64_t groups = (mix.batch + kImagesPerThread - 1) / kImagesPerThread;
  return {mix.channels * mix.pixels(), packs, static_cast<uint32_t>(groups)};
}

inline int64_t blocks_of(const Cut& cut) {
  return (cut.packs + kThreads - 1) / kThreads * cut.groups;
}

// One image of a group.
struct Job {
  int64_t own_start, partner_start;  // where the two begin, in elements
  ImageMix image_mix;
};

// What a block's threads share, once all of them have prepared it.
struct Group {
  Job jobs[kImagesPerThread];
};

FTBENCH_SHARED int images_of(const Mix& mix, const Cut& cut, uint32_t block) {
  const int64_t rest = mix.batch - block % cut.groups * kImagesPerThread;
  return static_cast<int>(rest < kImagesPerThread ? rest : kImagesPerThread);
}

FTBENCH_SHARED void prepare(const Mix& mix, const Cut& cut, uint32_t block, int thread,
                            Group& group) {
  const int64_t image = block % cut.groups * kImagesPerThread + thread;
  if (thread >= kImagesPerThread || image >= mix.batch) return;
  const ImageMix image_mix = image_mix_of(mix, image);
  group.jobs[thread] = {image * cut.size, image_mix.partner * cut.size, image_mix};
}

// The pack of a block's thread.
FTBENCH_SHARED int64_t pack_of(const Cut& cut, uint32_t block, int thread) {
  return int64_t{block / cut.groups} * kThreads + thread;
}

// Calls write(job, own, other) for each image, with what kRead elements at `images` and at its
// partner's place hold: the next are on their way while these are mixed.
template <int kRead, class In, class Write>
FTBENCH_SHARED void each_image(const Group& group, int count, const In* images,
                               const Write& write) {
  auto own = load_pack<In, kRead>(images + group.jobs[0].own_start);
  auto other = load_pack<In, kRead>(images + group.jobs[0].partner_start);
  // Twice, since the next values would be waited for where they take the place of these.
#if defined(__CUDA_ARCH__)
#pragma unroll 2
#endif
  for (int i = 0; i < count; ++i) {
    decltype(own) own_next{}, other_next{};
    if (i + 1 < count) {
      own_next = load_pack<In, kRead>(images + group.jobs[i + 1].own_start);
      other_next = load_pack<In, kRead>(images + group.jobs[i + 1].partner_start);
    }
    write(group.jobs[i], own, other);
    own = own_next;
    other = other_next;
  }
}

// The images lie as the result does, or kSize is 1.
template <class In, class Out, int kSize>
FTBENCH_SHARED void mix_group(const Mix& mix, const Normalization& norm, const Cut& cut,
                              const Group& group, uint32_t block, int thread) {
  const int64_t pack = pack_of(cut, block, thread);
  if (pack >= cut.packs) return;
  const Place place = place_of<kSize>(mix, pack * kSize);
  const Factors<kSize> factors = factors_of<kSize>(mix, norm, place.channel);
  const In* images = static_cast<const In*>(mix.images) + place.source;
  each_image<kSize>(group, images_of(mix, cut, block), images,
                    [&](const Job& job, const auto& own, const auto& other) {
                      write_pack<Out>(mix, job.image_mix, inside_bits<kSize>(job.image_mix, place),
                                      factors, job.own_start + place.value, own, other);
                    });
}

// kSize pixels of three bytes each, to three planes.
template <class Out, int kSize>
FTBENCH_SHARED void mix_triples(const Mix& mix, const Normalization& norm, const Cut& cut,
                                const Group& group, uint32_t block, int thread) {
  const int64_t pack = pack_of(cut, block, thread);
  if (pack >= cut.packs) return;
  const Place place = place_of<kSize>(mix, pack * kSize);
  const uint8_t* images = static_cast<const uint8_t*>(mix.images) + place.source;
  each_image<3 * kSize>(group, images_of(mix, cut, block), images,
                        [&](const Job& job, const auto& own, const auto& other) {
                          const uint32_t inside = inside_bits<kSize>(job.image_mix, place);
                          for (int c = 0; c < 3; ++c) {
                            write_pack<Out>(mix, job.image_mix, inside,
                                            factors_of<kSize>(mix, norm, c),
                                            job.own_start + place.value + c * mix.pixels(), own,
                                            other, c);
                          }
                        });
}

// In place, a slab (the same slice of every image) is read into memory that a block's threads share
// before any of it is overwritten: the plan may be any, and each value is read once.
constexpr int kSlabThreads = 256;
constexpr int64_t kMostSlabBytes = 65536;  // image_mixes included; there from compute capability 7.0
constexpr int64_t kMostSliceBytes = 256, kLeastSliceBytes = 32;
constexpr int64_t kEnoughSlabs = 512;  // to keep a large GPU busy
constexpr int64_t kMostImagesInSlab =
    kMostSlabBytes / (kLeastSliceBytes + static_cast<int64_t>(sizeof(ImageMix)));

// How a batch is cut into slabs. A slice has a power of two of packs.
struct Slabs {
  int64_t size;   // values of an image
  int64_t packs;  // of an image
  int batch, slice_packs;
  int64_t count;
};

template <class T, int kSize>
Slabs cut_slabs(const Mix& mix) {
  const int64_t packs = packs_of<kSize>(mix), pack_bytes = kSize * sizeof(T);
  int64_t bytes = kMostSliceBytes;
  while (bytes > kLeastSliceBytes &&
         (mix.batch * (bytes + static_cast<int64_t>(sizeof(ImageMix))) > kMostSlabBytes ||
          packs * pack_bytes < kEnoughSlabs * bytes)) {
    bytes /= 2;
  }
  const int64_t slice = bytes / pack_bytes;
  return {mix.channels * mix.pixels(), packs, static_cast<int>(mix.batch), static_cast<int>(slice),
          (packs + slice - 1) / slice};
}

// image_mixes[batch] and values[batch · slice_packs] of a slab.
template <class T, int kSize>
struct Slab {
  ImageMix* image_mixes;
  Pack<T, kSize>* values;
};

template <class T, int kSize>
FTBENCH_SHARED void read_slab(const Mix& mix, const Slabs& slabs, int64_t slice, int thread,
                              const Slab<T, kSize>& slab) {
  for (int image = thread; image < slabs.batch; image += kSlabThreads) {
    slab.image_mixes[image] = image_mix_of(mix, image);
  }
  const int within = thread % slabs.slice_packs, turn = kSlabThreads / slabs.slice_packs;
  const int64_t pack = slice * slabs.slice_packs + within;
  if (pack >= slabs.packs) return;
  const T* images = static_cast<const T*>(mix.images) + pack * kSize;
#if defined(__CUDA_ARCH__)
#pragma unroll 8
#endif
  for (int image = thread / slabs.slice_packs; image < slabs.batch; image += turn) {
    slab.values[image * slabs.slice_packs + within] =
        load_pack<T, kSize>(images + image * slabs.size);
  }
}

template <class T, int kSize>
FTBENCH_SHARED void write_slab(const Mix& mix, const Normalization& norm, const Slabs& slabs,
                               int64_t slice, int thread, const Slab<T, kSize>& slab) {
  const int within = thread % slabs.slice_packs, turn = kSlabThreads / slabs.slice_packs;
  const int64_t pack = slice * slabs.slice_packs + within;
  if (pack >= slabs.packs) return;
  const Place place = place_of<kSize>(mix, pack * kSize);
  const Factors<kSize> factors = factors_of<kSize>(mix, norm, place.channel);
  const auto value = [&](int64_t image) {
    return load_pack<T, kSize>(slab.values[image * slabs.slice_packs + within].at);
  };
  for (int image = thread / slabs.slice_packs; image < slabs.batch; image += turn) {
    const ImageMix& image_mix = slab.image_mixes[image];
    write_pack<T>(mix, image_mix, inside_bits<kSize>(image_mix, place), factors,
                  image * slabs.size + place.value, value(image), value(image_mix.partner));
  }
}

}  // namespace ftbench
