// Training's passes for AVX-512.
#include "common.h"
#include "train.h"

#if defined(YANMO_X86) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#include <cstring>

#define YANMO_BYTES 64
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#pragma GCC optimize("O3", "no-math-errno", "no-trapping-math", "fp-contract=fast")
#endif

namespace yanmo {
namespace {

#include "train.inl"

}  // namespace

extern const TrainLevel train_avx512;
const TrainLevel train_avx512 = YANMO_TRAIN;

}  // namespace yanmo

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
