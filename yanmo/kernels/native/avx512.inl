// The words for 16 lanes in one register of 512 bits, for AVX-512 with VNNI.

using Floats = __m512;
using Ints = __m512i;
using Bytes = __m512i;
using Nibbles = __m512i;

constexpr int32_t kShift = 128;  // the weights are multiplied as they are stored, as unsigned bytes
constexpr int kParts = 4;        // parts of a value that are mixed at once (attend.inl)

YANMO_INLINE Floats zeros() { return _mm512_setzero_ps(); }
YANMO_INLINE Floats all(float x) { return _mm512_set1_ps(x); }
YANMO_INLINE Floats load(const float* p) { return _mm512_loadu_ps(p); }
YANMO_INLINE Floats load(const uint16_t* p) {  // bfloat16
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
YANMO_INLINE Floats load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
YANMO_INLINE Floats load_half(const uint8_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
YANMO_INLINE void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
YANMO_INLINE void store(uint16_t* p, Floats x) {  // to the nearest bfloat16, ties to even; a NaN stays one
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
YANMO_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
YANMO_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
YANMO_INLINE Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
YANMO_INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
YANMO_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
YANMO_INLINE Floats least(Floats a, Floats b) { return _mm512_min_ps(a, b); }
YANMO_INLINE Floats most(Floats a, Floats b) { return _mm512_max_ps(a, b); }
YANMO_INLINE Floats magnitude(Floats a) { return _mm512_abs_ps(a); }
YANMO_INLINE float least_of(Floats a) { return _mm512_reduce_min_ps(a); }
YANMO_INLINE float most_of(Floats a) { return _mm512_reduce_max_ps(a); }
YANMO_INLINE float sum_of(Floats a) { return _mm512_reduce_add_ps(a); }
// The sum of each of 16: four times, pairs become one register of sums over half as many lanes.
YANMO_INLINE Floats sums_of(const Floats* x) {
  Floats a[8], b[4];
  YANMO_UNROLL
  for (int i = 0; i < 8; ++i) {
    a[i] = add(_mm512_unpacklo_ps(x[i], x[i + 8]), _mm512_unpackhi_ps(x[i], x[i + 8]));
  }
  YANMO_UNROLL
  for (int i = 0; i < 4; ++i) {
    a[i] = add(_mm512_unpacklo_ps(a[i], a[i + 4]), _mm512_unpackhi_ps(a[i], a[i + 4]));
  }
  YANMO_UNROLL
  for (int i = 0; i < 2; ++i) {
    b[i] = add(_mm512_shuffle_f32x4(a[i], a[i + 2], 0x88), _mm512_shuffle_f32x4(a[i], a[i + 2], 0xdd));
  }
  const Floats y = add(_mm512_shuffle_f32x4(b[0], b[1], 0x88), _mm512_shuffle_f32x4(b[0], b[1], 0xdd));
  const __m512i order = _mm512_setr_epi32(0, 8, 4, 12, 1, 9, 5, 13, 2, 10, 6, 14, 3, 11, 7, 15);
  return _mm512_permutexvar_ps(order, y);
}

YANMO_INLINE Ints all_ints(int32_t x) { return _mm512_set1_epi32(x); }
YANMO_INLINE Ints load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
YANMO_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
YANMO_INLINE Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
YANMO_INLINE Ints mul(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
YANMO_INLINE Ints least(Ints a, Ints b) { return _mm512_min_epi32(a, b); }
YANMO_INLINE Ints most(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
YANMO_INLINE Ints shift_right_8(Ints a) { return _mm512_srai_epi32(a, 8); }
YANMO_INLINE int32_t sum_of(Ints a) { return _mm512_reduce_add_epi32(a); }
YANMO_INLINE Ints nearest(Floats a) { return _mm512_cvtps_epi32(a); }
YANMO_INLINE Floats floats(Ints a) { return _mm512_cvtepi32_ps(a); }
YANMO_INLINE Floats two_to(Ints n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
YANMO_INLINE void store_bytes(int8_t* p, Ints a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a)); }

YANMO_INLINE Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
YANMO_INLINE Ints dot(Ints sum, Bytes w, const int8_t* code) {
#if defined(__GNUC__) && !defined(YANMO_SANITIZE)
  // written out, since GCC 12 neither folds the broadcast into it nor leaves the sum in its register
  using Four = int32_t __attribute__((may_alias, aligned(1)));
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*reinterpret_cast<const Four*>(code)));
  return sum;
#else
  int32_t four;
  std::memcpy(&four, code, 4);
  return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(four));
#endif
}
YANMO_INLINE Nibbles load_low(const uint8_t* p) { return _mm512_and_si512(load_bytes(p), _mm512_set1_epi8(15)); }
YANMO_INLINE Nibbles load_high(const uint8_t* p) {
  return _mm512_and_si512(_mm512_srli_epi16(load_bytes(p), 4), _mm512_set1_epi8(15));
}
YANMO_INLINE Ints dot_any(Ints sum, Bytes w, const int8_t* code) { return dot(sum, w, code); }
YANMO_INLINE Ints dot_nibbles(Ints sum, Nibbles w, const int8_t* code) { return dot(sum, w, code); }
YANMO_INLINE void fetch(const uint8_t* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
