// The words for 16 lanes in two registers of 256 bits, with or without the dot product of AVX-VNNI.
#include "common.h"

#if defined(YANMO_X86)
#include <immintrin.h>

#include <cmath>

#define YANMO_TEXT(x) #x
#if defined(__clang__)
#define YANMO_PUSH(target_name) _Pragma(YANMO_TEXT(clang attribute push(__attribute__((target(target_name))), apply_to = function)))
YANMO_PUSH(YANMO_TARGET)
#elif defined(__GNUC__)
#define YANMO_PUSH(target_name) _Pragma(YANMO_TEXT(GCC target(target_name)))
YANMO_PUSH(YANMO_TARGET)
#endif

namespace yanmo {
namespace {

struct Floats {
  __m256 a, b;
};
struct Ints {
  __m256i a, b;
};
using Bytes = Ints;
using Nibbles = Ints;

constexpr int kRowsLanes = 4, kGroupsLanes = 2;
constexpr int kParts = 1;  // parts of a value that are mixed at once (attend.inl)
#if defined(YANMO_AVXVNNI)
constexpr int32_t kShift = 128;  // the weights are multiplied as they are stored, as unsigned bytes
#else
constexpr int32_t kShift = 0;  // they become signed again when they are loaded
#endif

YANMO_INLINE Floats all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
YANMO_INLINE Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
YANMO_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
YANMO_INLINE __m256 of_bfloat16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
YANMO_INLINE Floats load(const uint16_t* p) { return {of_bfloat16(p), of_bfloat16(p + 8)}; }
YANMO_INLINE __m256 of_int8(__m128i x) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)); }
YANMO_INLINE Floats load(const int8_t* p) {
  const __m128i x = _mm_loadu_si128((const __m128i*)p);
  return {of_int8(x), of_int8(_mm_srli_si128(x, 8))};
}
YANMO_INLINE Floats load_half(const uint8_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + 1))};
}
YANMO_INLINE void store(float* p, Floats x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
YANMO_INLINE __m256i to_bfloat16(__m256 x) {  // to the nearest, ties to even; a NaN stays one
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}
YANMO_INLINE void store(uint16_t* p, Floats x) {
  const __m256i packed = _mm256_packus_epi32(to_bfloat16(x.a), to_bfloat16(x.b));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(packed, 0xd8));
}
YANMO_INLINE Floats add(Floats x, Floats y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
YANMO_INLINE Floats mul(Floats x, Floats y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
YANMO_INLINE Floats sub(Floats x, Floats y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
YANMO_INLINE Floats divide(Floats x, Floats y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
YANMO_INLINE Floats fma(Floats x, Floats y, Floats z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
YANMO_INLINE Floats least(Floats x, Floats y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
YANMO_INLINE Floats most(Floats x, Floats y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
YANMO_INLINE Floats magnitude(Floats x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
YANMO_INLINE float least_of(Floats x) {
  const __m256 both = _mm256_min_ps(x.a, x.b);
  __m128 y = _mm_min_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
  y = _mm_min_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_min_ss(y, _mm_movehdup_ps(y)));
}
YANMO_INLINE float most_of(Floats x) {
  const __m256 both = _mm256_max_ps(x.a, x.b);
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
YANMO_INLINE float sum_of(Floats x) {
  const __m256 both = _mm256_add_ps(x.a, x.b);
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
YANMO_INLINE __m256 eight_sums(const Floats* x) {
  __m256 y[4];
  for (int i = 0; i < 4; ++i) {
    y[i] = _mm256_hadd_ps(_mm256_add_ps(x[2 * i].a, x[2 * i].b), _mm256_add_ps(x[2 * i + 1].a, x[2 * i + 1].b));
  }
  const __m256 low = _mm256_hadd_ps(y[0], y[1]), high = _mm256_hadd_ps(y[2], y[3]);
  return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}
YANMO_INLINE Floats sums_of(const Floats* x) { return {eight_sums(x), eight_sums(x + 8)}; }

YANMO_INLINE Ints all_ints(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
YANMO_INLINE Ints load_any(const void* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
YANMO_INLINE Ints load_ints(const int32_t* p) { return load_any(p); }
YANMO_INLINE Ints add(Ints x, Ints y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
YANMO_INLINE Ints sub(Ints x, Ints y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
YANMO_INLINE Ints mul(Ints x, Ints y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
YANMO_INLINE Ints least(Ints x, Ints y) { return {_mm256_min_epi32(x.a, y.a), _mm256_min_epi32(x.b, y.b)}; }
YANMO_INLINE Ints most(Ints x, Ints y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
YANMO_INLINE Ints shift_right_8(Ints x) { return {_mm256_srai_epi32(x.a, 8), _mm256_srai_epi32(x.b, 8)}; }
YANMO_INLINE int32_t sum_of(Ints x) {
  const __m256i both = _mm256_add_epi32(x.a, x.b);
  __m128i y = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
}
YANMO_INLINE Ints nearest(Floats x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
YANMO_INLINE Floats floats(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
YANMO_INLINE __m256 two_to(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
YANMO_INLINE Floats two_to(Ints n) { return {two_to(n.a), two_to(n.b)}; }
YANMO_INLINE void store_bytes(int8_t* p, Ints x) {
  const __m256i halves = _mm256_packs_epi32(x.a, x.b);
  const __m256i bytes = _mm256_packs_epi16(halves, halves);
  const __m256i ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(ordered));
}

YANMO_INLINE __m256i four_of(const int8_t* code) {
  int32_t four;
  std::memcpy(&four, code, 4);
  return _mm256_set1_epi32(four);
}
#if defined(YANMO_AVXVNNI)
YANMO_INLINE Bytes load_bytes(const uint8_t* p) { return load_any(p); }
YANMO_INLINE Ints dot(Ints sum, Bytes w, const int8_t* code) {
  const __m256i four = four_of(code);
  return {_mm256_dpbusd_avx_epi32(sum.a, w.a, four), _mm256_dpbusd_avx_epi32(sum.b, w.b, four)};
}
YANMO_INLINE Ints dot_any(Ints sum, Bytes w, const int8_t* code) { return dot(sum, w, code); }
YANMO_INLINE Ints dot_nibbles(Ints sum, Nibbles w, const int8_t* code) { return dot(sum, w, code); }
#else
YANMO_INLINE Bytes load_bytes(const uint8_t* p) {
  const Bytes w = load_any(p);
  const __m256i flip = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(w.a, flip), _mm256_xor_si256(w.b, flip)};
}
// |x| · (± y): two such products, at most 2 · 128 · 127, fit 16 bits, which unsigned bytes would overflow. y must not be
// -128, which has no negative: in "rows" no weight is, in "groups", whose weights come from a file, no code is.
YANMO_INLINE __m256i dot_part(__m256i sum, __m256i x, __m256i y) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(y, x));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
YANMO_INLINE Ints dot(Ints sum, Bytes w, const int8_t* code) {
  const __m256i four = four_of(code);
  return {dot_part(sum.a, four, w.a), dot_part(sum.b, four, w.b)};
}
YANMO_INLINE Ints dot_any(Ints sum, Bytes w, const int8_t* code) {
  const __m256i four = four_of(code);
  return {dot_part(sum.a, w.a, four), dot_part(sum.b, w.b, four)};
}
YANMO_INLINE __m256i dot_nibbles_part(__m256i sum, __m256i w, __m256i four) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, four), _mm256_set1_epi16(1)));
}
YANMO_INLINE Ints dot_nibbles(Ints sum, Nibbles w, const int8_t* code) {
  const __m256i four = four_of(code);
  return {dot_nibbles_part(sum.a, w.a, four), dot_nibbles_part(sum.b, w.b, four)};
}
#endif
YANMO_INLINE Nibbles load_low(const uint8_t* p) {
  const Bytes w = load_any(p);
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)};
}
YANMO_INLINE Nibbles load_high(const uint8_t* p) {
  const Bytes w = load_any(p);
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(w.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(w.b, 4), mask)};
}
YANMO_INLINE void fetch(const uint8_t* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

#include "functions.inl"
#include "quantise.inl"
#include "finish.inl"
#include "linear.inl"
#include "attend.inl"
#include "small.inl"

}  // namespace

extern const Level YANMO_LEVEL;
const Level YANMO_LEVEL = {YANMO_LEVEL_NAME, kRowsLanes, kGroupsLanes, quantise, linear, attend, normalise, activate, nullptr};

}  // namespace yanmo

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
