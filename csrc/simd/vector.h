// Sixteen floats at a time, for the instruction set that FTBENCH_ISA names. Included inside that
// set's namespace by compile.h, once for each: no include guard, no headers of its own.
//
// Multiplications and additions are never contracted (-ffp-contract=off); fma() is the one place
// where a product is not rounded, and only where the set has such an instruction.

// Vectors live in registers only while nothing is called.
#define FTBENCH_INLINE inline __attribute__((always_inline))

constexpr int64_t kLanes = 16;

#if FTBENCH_ISA >= FTBENCH_AVX512

struct Vector {
  __m512 v;
};

FTBENCH_INLINE Vector load(const float* p) { return {_mm512_loadu_ps(p)}; }
FTBENCH_INLINE void store(float* p, Vector a) { _mm512_storeu_ps(p, a.v); }
FTBENCH_INLINE Vector fill(float a) { return {_mm512_set1_ps(a)}; }
FTBENCH_INLINE Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.v, b.v)}; }
FTBENCH_INLINE Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.v, b.v)}; }
FTBENCH_INLINE Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.v, b.v)}; }
FTBENCH_INLINE Vector fma(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Lanes whose bit is set from a, the others from b; bits beyond the sixteenth do not matter.
FTBENCH_INLINE Vector select(uint32_t bits, Vector a, Vector b) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(bits), b.v, a.v)};
}

FTBENCH_INLINE Vector gather(const float* p, const int32_t* places) {
  return {_mm512_i32gather_ps(_mm512_loadu_si512((const __m512i*)places), p, 4)};
}
// Sixteen of the thirty-two numbers of two vectors; places count from 0, `beyond` is added to each.
#define FTBENCH_PICKS
FTBENCH_INLINE Vector pick(Vector low, Vector high, const int32_t* places, int32_t beyond) {
  const __m512i at = _mm512_add_epi32(_mm512_loadu_si512((const __m512i*)places),
                                      _mm512_set1_epi32(beyond));
  return {_mm512_permutex2var_ps(low.v, at, high.v)};
}

FTBENCH_INLINE Vector load(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
FTBENCH_INLINE Vector load(const c10::Half* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))};
}
FTBENCH_INLINE Vector load(const c10::BFloat16* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
FTBENCH_INLINE __m256i pack(const c10::Half*, Vector a) {
  return _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT);
}
FTBENCH_INLINE __m256i pack(const c10::BFloat16*, Vector a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_set1_epi32(_mm512_srli_epi32(rounded, 16), nan, 0x7fc0);
  return _mm512_cvtepi32_epi16(rounded);
}
#if FTBENCH_ISA >= FTBENCH_AVX512_BF16
// The instruction takes subnormal numbers for zero.
FTBENCH_INLINE __m256i pack_pixels(Vector a) { return (__m256i)_mm512_cvtneps_pbh(a.v); }
FTBENCH_INLINE __m512i pack_pixels(Vector a, Vector b) {
  return (__m512i)_mm512_cvtne2ps_pbh(b.v, a.v);
}
#define FTBENCH_PACKS_PIXELS
#endif

// Past the caches; the address is aligned to the vector's size.
FTBENCH_INLINE void stream(float* p, Vector a) { _mm512_stream_ps(p, a.v); }

// The first `count` lanes; the others are zero, and not touched in memory.
FTBENCH_INLINE __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
FTBENCH_INLINE Vector load_part(const float* p, int64_t count) {
  return {_mm512_maskz_loadu_ps(first(count), p)};
}
FTBENCH_INLINE Vector load_part(const uint8_t* p, int64_t count) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(count), p)))};
}
template <class T>
FTBENCH_INLINE Vector load_part(const T* p, int64_t count) {
  alignas(32) T whole[kLanes];
  _mm256_store_si256((__m256i*)whole, _mm256_maskz_loadu_epi16(first(count), p));
  return load(whole);
}
FTBENCH_INLINE void store_part(float* p, Vector a, int64_t count) {
  _mm512_mask_storeu_ps(p, first(count), a.v);
}
template <class T>
FTBENCH_INLINE void store_part(T* p, Vector a, int64_t count) {
  _mm256_mask_storeu_epi16(p, first(count), pack(p, a));
}

// One plane of sixteen pixels of three bytes each, [r g b r g b …].
constexpr int64_t kTripleSlack = 0;
template <int kPlane>
FTBENCH_INLINE Vector load_plane(const uint8_t* p) {
  constexpr char c = kPlane;
  const __m512i dwords = _mm512_maskz_loadu_epi32(0x0fff, p);
  // Four pixels, twelve bytes, into each 128-bit lane: bytes are shuffled within lanes only.
  const __m512i lanes = _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11, 12), dwords);
  const __m512i bytes = _mm512_broadcast_i32x4(
      _mm_setr_epi8(c, -1, -1, -1, c + 3, -1, -1, -1, c + 6, -1, -1, -1, c + 9, -1, -1, -1));
  return {_mm512_cvtepi32_ps(_mm512_shuffle_epi8(lanes, bytes))};
}

// Sixteen running sums in float64. No constructor: one that the compiler makes would not be for
// this instruction set.
struct Sum {
  __m512d low, high;

  void clear() { low = high = _mm512_setzero_pd(); }
  void add(Vector a) {
    low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(a.v)));
    high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1)));
  }
  void read(double* lanes) const {
    _mm512_storeu_pd(lanes, low);
    _mm512_storeu_pd(lanes + 8, high);
  }
};

#elif FTBENCH_ISA >= FTBENCH_AVX2

using Part = __m256;
constexpr int kParts = 2;
struct Vector {
  Part part[kParts];
};

FTBENCH_INLINE Part fma(Part a, Part b, Part c) { return _mm256_fmadd_ps(a, b, c); }
// Lanes whose bit is set from a, of the eight bits from the lowest on.
FTBENCH_INLINE Part select_part(uint32_t bits, Part a, Part b) {
  const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lanes);
  return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lanes)));
}

FTBENCH_INLINE __m256 gather_part(const float* p, const int32_t* places) {
  return _mm256_i32gather_ps(p, _mm256_loadu_si256((const __m256i*)places), 4);
}
FTBENCH_INLINE Vector gather(const float* p, const int32_t* places) {
  return {gather_part(p, places), gather_part(p, places + 8)};
}

FTBENCH_INLINE __m256 widen(__m256i a) { return _mm256_cvtepi32_ps(a); }
FTBENCH_INLINE Vector load(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128((const __m128i*)p);
  return {widen(_mm256_cvtepu8_epi32(bytes)),
          widen(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
FTBENCH_INLINE Vector load(const c10::Half* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
FTBENCH_INLINE __m256 widen_bfloat16(const c10::BFloat16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
FTBENCH_INLINE Vector load(const c10::BFloat16* p) { return {widen_bfloat16(p), widen_bfloat16(p + 8)}; }
FTBENCH_INLINE __m256i pack(const c10::Half*, Vector a) {
  return _mm256_set_m128i(_mm256_cvtps_ph(a.part[1], _MM_FROUND_TO_NEAREST_INT),
                          _mm256_cvtps_ph(a.part[0], _MM_FROUND_TO_NEAREST_INT));
}
FTBENCH_INLINE __m256i round_to_bfloat16(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), _mm256_set1_epi32(0x7fc0), nan);
}
FTBENCH_INLINE __m256i pack(const c10::BFloat16*, Vector a) {
  const __m256i packed = _mm256_packus_epi32(round_to_bfloat16(a.part[0]), round_to_bfloat16(a.part[1]));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}
// Pixels are no NaN whose bits are all ones, the only one that rounding up would change.
FTBENCH_INLINE __m256i rounded_pixels(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
}
FTBENCH_INLINE __m256i pack_pixels(Vector a) {
  const __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(rounded_pixels(a.part[0]), 16),
                                             _mm256_srli_epi32(rounded_pixels(a.part[1]), 16));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}
#define FTBENCH_PACKS_PIXELS

FTBENCH_INLINE void stream(float* p, Vector a) {
  _mm256_stream_ps(p, a.part[0]);
  _mm256_stream_ps(p + 8, a.part[1]);
}

// The last load begins at byte 36 and takes 16.
constexpr int64_t kTripleSlack = 4;
FTBENCH_INLINE __m256i triple_lanes(const uint8_t* p) {
  const __m128i low = _mm_loadu_si128((const __m128i*)p);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low),
                                 _mm_loadu_si128((const __m128i*)(p + 12)), 1);
}
template <int kPlane>
FTBENCH_INLINE Vector load_plane(const uint8_t* p) {
  constexpr char c = kPlane;
  const __m256i bytes = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(c, -1, -1, -1, c + 3, -1, -1, -1, c + 6, -1, -1, -1, c + 9, -1, -1, -1));
  return {widen(_mm256_shuffle_epi8(triple_lanes(p), bytes)),
          widen(_mm256_shuffle_epi8(triple_lanes(p + 24), bytes))};
}

struct Sum {
  __m256d quarter[4];

  void clear() { quarter[0] = quarter[1] = quarter[2] = quarter[3] = _mm256_setzero_pd(); }
  void add(Vector a) {
    quarter[0] = _mm256_add_pd(quarter[0], _mm256_cvtps_pd(_mm256_castps256_ps128(a.part[0])));
    quarter[1] = _mm256_add_pd(quarter[1], _mm256_cvtps_pd(_mm256_extractf128_ps(a.part[0], 1)));
    quarter[2] = _mm256_add_pd(quarter[2], _mm256_cvtps_pd(_mm256_castps256_ps128(a.part[1])));
    quarter[3] = _mm256_add_pd(quarter[3], _mm256_cvtps_pd(_mm256_extractf128_ps(a.part[1], 1)));
  }
  void read(double* lanes) const {
    for (int i = 0; i < 4; ++i) _mm256_storeu_pd(lanes + 4 * i, quarter[i]);
  }
};

#else

// The compiler's own vectors, of the sixteen bytes that every processor has registers for.
typedef float Part __attribute__((vector_size(16)));
constexpr int kParts = 4;
struct Vector {
  Part part[kParts];
};

FTBENCH_INLINE Part fma(Part a, Part b, Part c) { return a * b + c; }
FTBENCH_INLINE Part select_part(uint32_t bits, Part a, Part b) {
  typedef int32_t Ints __attribute__((vector_size(16)));
  const Ints lanes = {1, 2, 4, 8};
  return ((static_cast<int32_t>(bits) - Ints{}) & lanes) != 0 ? a : b;
}
FTBENCH_INLINE Vector load(const float* p);
FTBENCH_INLINE void store(float* p, Vector a);

FTBENCH_INLINE Vector gather(const float* p, const int32_t* places) {
  float whole[kLanes];
  for (int i = 0; i < kLanes; ++i) whole[i] = p[places[i]];
  return load(whole);
}

template <class T>
__attribute__((noinline)) void widen_sixteen(const T* p, float* to) {
  for (int i = 0; i < kLanes; ++i) to[i] = static_cast<float>(p[i]);
}
template <class T>
FTBENCH_INLINE Vector load(const T* p) {
  float whole[kLanes];
  widen_sixteen(p, whole);
  return load(whole);
}
template <class T>
__attribute__((noinline)) void narrow_sixteen(const float* from, T* p) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<T>(from[i]);
}
template <class T>
FTBENCH_INLINE void store(T* p, Vector a) {
  float whole[kLanes];
  store(whole, a);
  narrow_sixteen(whole, p);
}

constexpr int64_t kTripleSlack = 0;
template <int kPlane>
FTBENCH_INLINE Vector load_plane(const uint8_t* p) {
  float plane[kLanes];
  for (int i = 0; i < kLanes; ++i) plane[i] = p[3 * i + kPlane];
  return load(plane);
}

struct Sum {
  typedef double Doubles __attribute__((vector_size(32)));
  Doubles quarter[4];

  void clear() {
    for (Doubles& each : quarter) each = Doubles{};
  }
  void add(Vector a) {
    for (int i = 0; i < 4; ++i) quarter[i] += __builtin_convertvector(a.part[i], Doubles);
  }
  void read(double* to) const { __builtin_memcpy(to, quarter, sizeof quarter); }
};

#endif

#if FTBENCH_ISA < FTBENCH_AVX512
// Part by part: what is wider than a register would live in memory.
constexpr int64_t kPartLanes = kLanes / kParts;

#define FTBENCH_EACH_PART(of_i)                                 \
  Vector made;                                                  \
  for (int i = 0; i < kParts; ++i) made.part[i] = of_i;         \
  return made
FTBENCH_INLINE Part load_native(const float* p) {
  Part a;
  __builtin_memcpy(&a, p, sizeof a);
  return a;
}
FTBENCH_INLINE Vector load(const float* p) { FTBENCH_EACH_PART(load_native(p + i * kPartLanes)); }
FTBENCH_INLINE void store(float* p, Vector a) {
  for (int i = 0; i < kParts; ++i) __builtin_memcpy(p + i * kPartLanes, &a.part[i], sizeof(Part));
}
FTBENCH_INLINE Vector fill(float a) { FTBENCH_EACH_PART(a - Part{}); }
FTBENCH_INLINE Vector operator+(Vector a, Vector b) { FTBENCH_EACH_PART(a.part[i] + b.part[i]); }
FTBENCH_INLINE Vector operator-(Vector a, Vector b) { FTBENCH_EACH_PART(a.part[i] - b.part[i]); }
FTBENCH_INLINE Vector operator*(Vector a, Vector b) { FTBENCH_EACH_PART(a.part[i] * b.part[i]); }
FTBENCH_INLINE Vector fma(Vector a, Vector b, Vector c) {
  FTBENCH_EACH_PART(fma(a.part[i], b.part[i], c.part[i]));
}
FTBENCH_INLINE Vector select(uint32_t bits, Vector a, Vector b) {
  FTBENCH_EACH_PART(select_part(bits >> (i * kPartLanes), a.part[i], b.part[i]));
}
#undef FTBENCH_EACH_PART
#endif

// How a result is written: into the caches, or past them to memory, at an address that is aligned
// to the vector's size. kPixels: subnormal numbers may become zero.
enum class Route { kCached, kPast };

#if FTBENCH_ISA >= FTBENCH_AVX2
template <class T>
FTBENCH_INLINE void store(T* p, Vector a) {
  _mm256_storeu_si256((__m256i*)p, pack(p, a));
}
template <Route kRoute, bool kPixels, class T>
FTBENCH_INLINE void put(T* p, Vector a) {
  if constexpr (std::is_same_v<T, float>) {
    if constexpr (kRoute == Route::kPast) return stream(p, a);
    return store(p, a);
  } else {
    __m256i words;
#ifdef FTBENCH_PACKS_PIXELS
    if constexpr (kPixels) {
      words = pack_pixels(a);
    } else {
      words = pack(p, a);
    }
#else
    words = pack(p, a);
#endif
    if constexpr (kRoute == Route::kPast) return _mm256_stream_si256((__m256i*)p, words);
    return _mm256_storeu_si256((__m256i*)p, words);
  }
}
template <Route kRoute, bool kPixels, class T>
FTBENCH_INLINE void put(T* p, Vector a, Vector b) {
#if FTBENCH_ISA >= FTBENCH_AVX512_BF16
  if constexpr (kPixels) {
    const __m512i words = pack_pixels(a, b);
    if constexpr (kRoute == Route::kPast) return _mm512_stream_si512((__m512i*)p, words);
    return _mm512_storeu_si512((__m512i*)p, words);
  }
#endif
  put<kRoute, kPixels>(p, a);
  put<kRoute, kPixels>(p + kLanes, b);
}
// What was written past the caches is seen by other threads after this.
FTBENCH_INLINE void finish() { _mm_sfence(); }
#else
template <Route, bool, class T>
FTBENCH_INLINE void put(T* p, Vector a) {
  store(p, a);
}
template <Route, bool, class T>
FTBENCH_INLINE void put(T* p, Vector a, Vector b) {
  store(p, a);
  store(p + kLanes, b);
}
FTBENCH_INLINE void stream(float* p, Vector a) { store(p, a); }
FTBENCH_INLINE void finish() {}
#endif

#if FTBENCH_ISA < FTBENCH_AVX512
// The first `count` lanes; the others are zero, and not touched in memory.
template <class T>
__attribute__((noinline)) void copy_part(T* to, const T* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}
template <class T>
FTBENCH_INLINE Vector load_part(const T* p, int64_t count) {
  T whole[kLanes] = {};
  copy_part(whole, p, count);
  return load(whole);
}
template <class T>
FTBENCH_INLINE void store_part(T* p, Vector a, int64_t count) {
  T whole[kLanes];
  store(whole, a);
  copy_part(p, whole, count);
}
#endif

// The first `count` lanes of a vector; the others are zero, whatever they were.
FTBENCH_INLINE Vector keep_first(Vector a, int64_t count) {
  float whole[kLanes];
  store(whole, a);
  return load_part(whole, count);
}

// One cache line of each is asked for; beyond the end of a buffer this does nothing.
FTBENCH_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
FTBENCH_INLINE void prefetch_to_write(const void* p) { __builtin_prefetch(p, 1, 3); }
