// AVX-512 with VNNI (Ice Lake, Sapphire Rapids, Zen 4 and later): 16 outputs in one register.
#include "common.h"

#if defined(YANMO_X86)
#include <immintrin.h>

#include <cmath>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#endif

namespace yanmo {
namespace {

#if defined(YANMO_SANITIZE)
constexpr int kRowsLanes = 6, kGroupsLanes = 3;  // the same code in fewer copies, since sanitizers compile slowly
#else
constexpr int kRowsLanes = 24, kGroupsLanes = 10;
#endif

#include "avx512.inl"
#include "functions.inl"
#include "quantise.inl"
#include "finish.inl"
#include "linear.inl"
#include "attend.inl"
#include "small.inl"

}  // namespace

extern const Level avx512_level;
const Level avx512_level = {"avx512", kRowsLanes, kGroupsLanes, quantise, linear, attend, normalise, activate, nullptr};

}  // namespace yanmo

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
