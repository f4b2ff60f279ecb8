// Training's passes for AVX-512 with its rounding to bfloat16.
#include "common.h"
#include "train.h"

#if defined(YANMO_X86) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#include <immintrin.h>

#include <cstring>

#define YANMO_BYTES 64
#define YANMO_BFLOAT16 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")
#pragma GCC optimize("O3", "no-math-errno", "no-trapping-math", "fp-contract=fast")
#endif

namespace yanmo {
namespace {

#include "train.inl"

}  // namespace

extern const TrainLevel train_avx512bf16;
const TrainLevel train_avx512bf16 = YANMO_TRAIN;

// Of processors that have AVX-512.
bool avx512_bfloat16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  __get_cpuid_count(7, 1, &a, &b, &c, &d);
  return (a >> 5 & 1) != 0;
}

}  // namespace yanmo

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
