// Neighbours that a GPU thread moves together, by sixteen bytes at most.
#pragma once

#include <cstring>
#include <type_traits>

#include "portable.h"

// Tests see to it that what is moved at once lies where a GPU can.
#if !defined(FTBENCH_TOUCH)
#define FTBENCH_TOUCH(p, bytes)
#endif

namespace ftbench {

template <class T, int kSize, class = void>
struct Pack {
  T at[kSize];

  FTBENCH_SHARED float value(int i) const { return static_cast<float>(at[i]); }
};

// Bytes stay in words, that the compiler does not take apart what it has loaded together.
template <int kSize>
struct Pack<uint8_t, kSize, std::enable_if_t<kSize % 4 == 0>> {
  uint32_t words[kSize / 4];

  FTBENCH_SHARED float value(int i) const {
#if defined(__CUDA_ARCH__)
    // Put below the bits of 2^23, a byte is added to it. Converting takes four times as long.
    return __uint_as_float(__byte_perm(words[i / 4], 0x4b000000u, 0x7440 + i % 4)) - 8388608.0f;
#else
    return static_cast<float>(words[i / 4] >> 8 * (i % 4) & 0xff);
#endif
  }
};

// The unit that so many bytes are moved by, and how often: words, since the compiler moves those
// together.
template <int kBytes>
struct Unit {
#if defined(__CUDACC__)
  using Type = std::conditional_t<kBytes % 16 == 0, uint4,
                                  std::conditional_t<kBytes % 8 == 0, uint2, uint32_t>>;
#else
  static constexpr int kAlign = kBytes % 16 == 0 ? 16 : kBytes % 8 == 0 ? 8 : 4;
  struct __attribute__((may_alias, aligned(kAlign))) Type {
    uint32_t word[kAlign / 4];
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
    FTBENCH_TOUCH(p, sizeof(typename Moved::Type));
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
    FTBENCH_TOUCH(p, sizeof(typename Moved::Type));
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

}  // namespace ftbench
