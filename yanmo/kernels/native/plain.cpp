// Plain C++ for every processor; compilers make of it what vectors there are. Sums and products of whole numbers wrap
// around, as they do in the registers of the other levels.
#include "common.h"

#include <cmath>

namespace yanmo {
namespace {

struct Floats {
  float of[kLanes];
};
struct Ints {
  int32_t of[kLanes];
};
struct Bytes {
  int8_t of[64];
};
using Nibbles = Bytes;

constexpr int kRowsLanes = 2, kGroupsLanes = 2;
constexpr int kParts = 1;  // parts of a value that are mixed at once (attend.inl)
constexpr int32_t kShift = 0;  // the weights become signed again when they are loaded

template <typename Out, typename F>
YANMO_INLINE Out each(F f) {
  Out y;
  for (int i = 0; i < kLanes; ++i) y.of[i] = f(i);
  return y;
}

YANMO_INLINE float of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

YANMO_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

// IEEE 754 half → float, subnormal numbers included.
YANMO_INLINE float of_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, rest = half & 0x7fff;
  if (rest >= 0x7c00) return of_bits(sign | 0x7f800000 | rest << 13);
  const float magnitude = of_bits(rest << 13) * 0x1p112f;
  return of_bits(sign | bits_of(magnitude));
}

YANMO_INLINE uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  if (x != x) return static_cast<uint16_t>((bits | 0x400000) >> 16);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

YANMO_INLINE Floats all(float x) {
  return each<Floats>([=](int) { return x; });
}
YANMO_INLINE Floats zeros() { return all(0.0f); }
YANMO_INLINE Floats load(const float* p) {
  return each<Floats>([=](int i) { return p[i]; });
}
YANMO_INLINE Floats load(const uint16_t* p) {
  return each<Floats>([=](int i) { return of_bits(static_cast<uint32_t>(p[i]) << 16); });
}
YANMO_INLINE Floats load(const int8_t* p) {
  return each<Floats>([=](int i) { return static_cast<float>(p[i]); });
}
YANMO_INLINE Floats load_half(const uint8_t* p) {
  return each<Floats>([=](int i) {
    uint16_t half;
    std::memcpy(&half, p + 2 * i, 2);
    return of_half(half);
  });
}
YANMO_INLINE void store(float* p, Floats x) { std::memcpy(p, x.of, sizeof(x.of)); }
YANMO_INLINE void store(uint16_t* p, Floats x) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_bfloat16(x.of[i]);
}
YANMO_INLINE Floats add(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.of[i] + b.of[i]; });
}
YANMO_INLINE Floats mul(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.of[i] * b.of[i]; });
}
YANMO_INLINE Floats sub(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.of[i] - b.of[i]; });
}
YANMO_INLINE Floats divide(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.of[i] / b.of[i]; });
}
YANMO_INLINE Floats magnitude(Floats a) {
  return each<Floats>([&](int i) { return std::fabs(a.of[i]); });
}
YANMO_INLINE Floats fma(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return a.of[i] * b.of[i] + c.of[i]; });
}
YANMO_INLINE Floats least(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.of[i] < b.of[i] ? a.of[i] : b.of[i]; });
}
YANMO_INLINE Floats most(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.of[i] > b.of[i] ? a.of[i] : b.of[i]; });
}
YANMO_INLINE float least_of(Floats a) {
  float y = a.of[0];
  for (int i = 1; i < kLanes; ++i) y = a.of[i] < y ? a.of[i] : y;
  return y;
}
YANMO_INLINE float most_of(Floats a) {
  float y = a.of[0];
  for (int i = 1; i < kLanes; ++i) y = a.of[i] > y ? a.of[i] : y;
  return y;
}
YANMO_INLINE float sum_of(Floats a) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.of[i] += a.of[i + half];
  }
  return a.of[0];
}
YANMO_INLINE Floats sums_of(const Floats* x) {
  return each<Floats>([=](int i) { return sum_of(x[i]); });
}

YANMO_INLINE int32_t wrap(uint32_t x) { return static_cast<int32_t>(x); }
YANMO_INLINE Ints all_ints(int32_t x) {
  return each<Ints>([=](int) { return x; });
}
YANMO_INLINE Ints load_ints(const int32_t* p) {
  return each<Ints>([=](int i) { return p[i]; });
}
YANMO_INLINE Ints add(Ints a, Ints b) {
  return each<Ints>([&](int i) { return wrap(static_cast<uint32_t>(a.of[i]) + static_cast<uint32_t>(b.of[i])); });
}
YANMO_INLINE Ints sub(Ints a, Ints b) {
  return each<Ints>([&](int i) { return wrap(static_cast<uint32_t>(a.of[i]) - static_cast<uint32_t>(b.of[i])); });
}
YANMO_INLINE Ints mul(Ints a, Ints b) {
  return each<Ints>([&](int i) { return wrap(static_cast<uint32_t>(a.of[i]) * static_cast<uint32_t>(b.of[i])); });
}
YANMO_INLINE Ints least(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.of[i] < b.of[i] ? a.of[i] : b.of[i]; });
}
YANMO_INLINE Ints most(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.of[i] > b.of[i] ? a.of[i] : b.of[i]; });
}
YANMO_INLINE Ints shift_right_8(Ints a) {
  return each<Ints>([&](int i) { return a.of[i] >> 8; });
}
YANMO_INLINE int32_t sum_of(Ints a) {
  int32_t y = 0;
  for (int i = 0; i < kLanes; ++i) y += a.of[i];
  return y;
}
// Values are below 2²² in size: adding 1.5 · 2²³ leaves the nearest whole number, ties to even, in the last bits.
YANMO_INLINE Ints nearest(Floats a) {
  return each<Ints>([&](int i) { return static_cast<int32_t>(bits_of(a.of[i] + 12582912.0f)) - 0x4b400000; });
}
YANMO_INLINE Floats floats(Ints a) {
  return each<Floats>([&](int i) { return static_cast<float>(a.of[i]); });
}
YANMO_INLINE Floats two_to(Ints n) {
  return each<Floats>([&](int i) { return of_bits(static_cast<uint32_t>(n.of[i] + 127) << 23); });
}
YANMO_INLINE void store_bytes(int8_t* p, Ints a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(a.of[i]);
}

YANMO_INLINE Bytes load_bytes(const uint8_t* p) {
  Bytes y;
  for (int i = 0; i < 64; ++i) y.of[i] = static_cast<int8_t>(p[i] ^ 0x80);
  return y;
}
YANMO_INLINE Ints dot(Ints sum, const Bytes& w, const int8_t* code) {
  for (int i = 0; i < kLanes; ++i) {
    const int8_t* four = w.of + 4 * i;
    sum.of[i] += four[0] * code[0] + four[1] * code[1] + four[2] * code[2] + four[3] * code[3];
  }
  return sum;
}
YANMO_INLINE Nibbles load_low(const uint8_t* p) {
  Nibbles y;
  for (int i = 0; i < 64; ++i) y.of[i] = static_cast<int8_t>(p[i] & 15);
  return y;
}
YANMO_INLINE Nibbles load_high(const uint8_t* p) {
  Nibbles y;
  for (int i = 0; i < 64; ++i) y.of[i] = static_cast<int8_t>(p[i] >> 4);
  return y;
}
YANMO_INLINE Ints dot_any(Ints sum, const Bytes& w, const int8_t* code) { return dot(sum, w, code); }
YANMO_INLINE Ints dot_nibbles(Ints sum, const Nibbles& w, const int8_t* code) { return dot(sum, w, code); }
YANMO_INLINE void fetch(const uint8_t*) {}

#include "functions.inl"
#include "quantise.inl"
#include "finish.inl"
#include "linear.inl"
#include "attend.inl"
#include "small.inl"

}  // namespace

extern const Level plain_level;
const Level plain_level = {"plain", kRowsLanes, kGroupsLanes, quantise, linear, attend, normalise, activate, nullptr};

}  // namespace yanmo
