// NEON with the dot product (Armv8.2 and later: Apple M1, Cortex-A75, Neoverse N1): 16 outputs in four registers.
#include "common.h"

#if defined(YANMO_ARM)
#include <arm_neon.h>

#include <cmath>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

namespace yanmo {
namespace {

struct Floats {
  float32x4_t of[4];
};
struct Ints {
  int32x4_t of[4];
};
struct Bytes {
  int8x16_t of[4];
};
using Nibbles = Bytes;

#if defined(YANMO_SANITIZE)
constexpr int kRowsLanes = 4, kGroupsLanes = 2;
#else
constexpr int kRowsLanes = 6, kGroupsLanes = 3;
#endif
constexpr int32_t kShift = 0;  // the weights become signed again when they are loaded
constexpr int kParts = 1;      // parts of a value that are mixed at once (attend.inl)

#define YANMO_EACH(Out, expression)                        \
  Out y;                                                   \
  YANMO_UNROLL                                             \
  for (int i = 0; i < 4; ++i) y.of[i] = expression;        \
  return y

YANMO_INLINE Floats all(float x) { YANMO_EACH(Floats, vdupq_n_f32(x)); }
YANMO_INLINE Floats zeros() { return all(0.0f); }
YANMO_INLINE Floats load(const float* p) { YANMO_EACH(Floats, vld1q_f32(p + 4 * i)); }
YANMO_INLINE Floats load(const uint16_t* p) {  // bfloat16
  YANMO_EACH(Floats, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}
YANMO_INLINE float32x4_t of_int8(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
}
YANMO_INLINE Floats load(const int8_t* p) { YANMO_EACH(Floats, of_int8(p + 4 * i)); }
YANMO_INLINE float32x4_t of_half(const uint8_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
YANMO_INLINE Floats load_half(const uint8_t* p) { YANMO_EACH(Floats, of_half(p + 8 * i)); }
YANMO_INLINE void store(float* p, Floats x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.of[i]);
}
YANMO_INLINE uint16x4_t to_bfloat16(float32x4_t x) {  // to the nearest, ties to even; a NaN stays one
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
}
YANMO_INLINE void store(uint16_t* p, Floats x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, to_bfloat16(x.of[i]));
}
YANMO_INLINE Floats add(Floats a, Floats b) { YANMO_EACH(Floats, vaddq_f32(a.of[i], b.of[i])); }
YANMO_INLINE Floats sub(Floats a, Floats b) { YANMO_EACH(Floats, vsubq_f32(a.of[i], b.of[i])); }
YANMO_INLINE Floats mul(Floats a, Floats b) { YANMO_EACH(Floats, vmulq_f32(a.of[i], b.of[i])); }
YANMO_INLINE Floats divide(Floats a, Floats b) { YANMO_EACH(Floats, vdivq_f32(a.of[i], b.of[i])); }
YANMO_INLINE Floats fma(Floats a, Floats b, Floats c) { YANMO_EACH(Floats, vfmaq_f32(c.of[i], a.of[i], b.of[i])); }
// the second where one is NaN, as on the other levels (vminq would give NaN for either)
YANMO_INLINE Floats least(Floats a, Floats b) {
  YANMO_EACH(Floats, vbslq_f32(vcltq_f32(a.of[i], b.of[i]), a.of[i], b.of[i]));
}
YANMO_INLINE Floats most(Floats a, Floats b) {
  YANMO_EACH(Floats, vbslq_f32(vcgtq_f32(a.of[i], b.of[i]), a.of[i], b.of[i]));
}
YANMO_INLINE Floats magnitude(Floats a) { YANMO_EACH(Floats, vabsq_f32(a.of[i])); }
YANMO_INLINE float least_of(Floats a) {
  return vminvq_f32(vminq_f32(vminq_f32(a.of[0], a.of[1]), vminq_f32(a.of[2], a.of[3])));
}
YANMO_INLINE float most_of(Floats a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.of[0], a.of[1]), vmaxq_f32(a.of[2], a.of[3])));
}
YANMO_INLINE float sum_of(Floats a) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(a.of[0], a.of[1]), vaddq_f32(a.of[2], a.of[3])));
}
YANMO_INLINE Floats sums_of(const Floats* x) {
  float sums[kLanes];
  for (int i = 0; i < kLanes; ++i) sums[i] = sum_of(x[i]);
  return load(sums);
}

YANMO_INLINE Ints all_ints(int32_t x) { YANMO_EACH(Ints, vdupq_n_s32(x)); }
YANMO_INLINE Ints load_ints(const int32_t* p) { YANMO_EACH(Ints, vld1q_s32(p + 4 * i)); }
YANMO_INLINE Ints add(Ints a, Ints b) { YANMO_EACH(Ints, vaddq_s32(a.of[i], b.of[i])); }
YANMO_INLINE Ints sub(Ints a, Ints b) { YANMO_EACH(Ints, vsubq_s32(a.of[i], b.of[i])); }
YANMO_INLINE Ints mul(Ints a, Ints b) { YANMO_EACH(Ints, vmulq_s32(a.of[i], b.of[i])); }
YANMO_INLINE Ints least(Ints a, Ints b) { YANMO_EACH(Ints, vminq_s32(a.of[i], b.of[i])); }
YANMO_INLINE Ints most(Ints a, Ints b) { YANMO_EACH(Ints, vmaxq_s32(a.of[i], b.of[i])); }
YANMO_INLINE Ints shift_right_8(Ints a) { YANMO_EACH(Ints, vshrq_n_s32(a.of[i], 8)); }
YANMO_INLINE int32_t sum_of(Ints a) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(a.of[0], a.of[1]), vaddq_s32(a.of[2], a.of[3])));
}
YANMO_INLINE Ints nearest(Floats a) { YANMO_EACH(Ints, vcvtnq_s32_f32(a.of[i])); }
YANMO_INLINE Floats floats(Ints a) { YANMO_EACH(Floats, vcvtq_f32_s32(a.of[i])); }
YANMO_INLINE Floats two_to(Ints n) {
  YANMO_EACH(Floats, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.of[i], vdupq_n_s32(127)), 23)));
}
YANMO_INLINE void store_bytes(int8_t* p, Ints a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.of[0]), vmovn_s32(a.of[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.of[2]), vmovn_s32(a.of[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

YANMO_INLINE Bytes load_bytes(const uint8_t* p) {
  YANMO_EACH(Bytes, vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p + 16 * i), vdupq_n_u8(128))));
}
YANMO_INLINE Nibbles load_low(const uint8_t* p) {
  YANMO_EACH(Nibbles, vreinterpretq_s8_u8(vandq_u8(vld1q_u8(p + 16 * i), vdupq_n_u8(15))));
}
YANMO_INLINE Nibbles load_high(const uint8_t* p) {
  YANMO_EACH(Nibbles, vreinterpretq_s8_u8(vshrq_n_u8(vld1q_u8(p + 16 * i), 4)));
}
YANMO_INLINE Ints dot(Ints sum, Bytes w, const int8_t* code) {
  int32_t four;
  std::memcpy(&four, code, 4);
  const int8x16_t codes = vreinterpretq_s8_s32(vdupq_n_s32(four));
  YANMO_EACH(Ints, vdotq_s32(sum.of[i], w.of[i], codes));
}
YANMO_INLINE Ints dot_any(Ints sum, Bytes w, const int8_t* code) { return dot(sum, w, code); }
YANMO_INLINE Ints dot_nibbles(Ints sum, Nibbles w, const int8_t* code) { return dot(sum, w, code); }
YANMO_INLINE void fetch(const uint8_t* p) { __builtin_prefetch(p); }

#include "functions.inl"
#include "quantise.inl"
#include "finish.inl"
#include "linear.inl"
#include "attend.inl"
#include "small.inl"

}  // namespace

extern const Level neon_level;
const Level neon_level = {"neon", kRowsLanes, kGroupsLanes, quantise, linear, attend, normalise, activate, nullptr};

}  // namespace yanmo

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
