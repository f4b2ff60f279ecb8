// AMX (Sapphire Rapids and later): the product of many rows in tiles of 16 rows × 64 inputs × 16 outputs. A panel is as
// tiles want it, 16 quads of 16 outputs after another; the rest is done by the level avx512.
#include "common.h"

#if defined(YANMO_X86) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8")
#endif

namespace yanmo {
namespace {

#include "avx512.inl"
#include "functions.inl"
#include "finish.inl"

constexpr int64_t kRows = 16;    // of a tile
constexpr int64_t kAhead = 4096;  // bytes of weights that are asked for before they are used

struct alignas(64) Config {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
  Config() {
    for (int i = 0; i < 8; ++i) bytes[i] = 64, rows[i] = kRows;
  }
};

YANMO_INLINE void ask_for(const uint8_t* panel) {
  for (int64_t i = 0; i < 1024; i += 64) fetch(panel + kAhead + i);
}

// Tiles 0-3: sums of (row tile, panel) 00, 01, 10, 11; 4, 5: codes; 6, 7: weights.
YANMO_INLINE void multiply(const LinearJob& job, int64_t first, int64_t panel, int64_t tiles, int64_t panels,
                           int32_t (*sums)[kRows * kLanes]) {
  const int8_t* code = job.codes + first * job.padded;
  const int8_t* more = code + (tiles > 1 ? kRows * job.padded : 0);
  const uint8_t* w = job.panels + panel * kLanes * job.padded;
  const uint8_t* next = w + (panels > 1 ? kLanes * job.padded : 0);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < job.padded; k += 64) {
    _tile_loadd(4, code + k, job.padded);
    _tile_loadd(6, w + k * kLanes, 64);
    _tile_dpbsud(0, 4, 6);
    if (first == 0) ask_for(w + k * kLanes);
    if (panels > 1) {
      _tile_loadd(7, next + k * kLanes, 64);
      _tile_dpbsud(1, 4, 7);
      if (first == 0) ask_for(next + k * kLanes);
    }
    if (tiles > 1) {
      _tile_loadd(5, more + k, job.padded);
      _tile_dpbsud(2, 5, 6);
      if (panels > 1) _tile_dpbsud(3, 5, 7);
    }
  }
  _tile_stored(0, sums[0], 64);
  if (panels > 1) _tile_stored(1, sums[1], 64);
  if (tiles > 1) _tile_stored(2, sums[2], 64);
  if (tiles > 1 && panels > 1) _tile_stored(3, sums[3], 64);
}

YANMO_INLINE void finish_tile(const LinearJob& job, const int32_t* sums, int64_t panel, int64_t first) {
  const int64_t rows = job.virtual_rows - first < kRows ? job.virtual_rows - first : kRows;
  for (int64_t r = 0; r < rows; r += job.wide ? 2 : 1) {
    const Ints pair[2] = {load_ints(sums + r * kLanes), load_ints(sums + (job.wide ? r + 1 : r) * kLanes)};
    if (job.wide) finish_row<true>(job, pair, panel, first + r);
    else finish_row<false>(job, pair, panel, first + r);
  }
}

}  // namespace

// Tasks are pairs (chunk of rows, two panels). Codes lie flat, in whole tiles of rows.
void amx_linear(const void* argument, int64_t begin, int64_t end) {
  const LinearJob& job = *static_cast<const LinearJob*>(argument);
  const int64_t panels = (job.outputs + kLanes - 1) / kLanes, pairs = (panels + 1) / 2;
  alignas(64) int32_t sums[4][kRows * kLanes];
  const Config config;
  _tile_loadconfig(&config);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t panel = task % pairs * 2, two = panels - panel > 1 ? 2 : 1;
    const int64_t from = task / pairs * job.chunk;
    const int64_t to = job.virtual_rows - from < job.chunk ? job.virtual_rows : from + job.chunk;
    for (int64_t first = from; first < to; first += 2 * kRows) {
      const int64_t tiles = to - first > kRows ? 2 : 1;
      multiply(job, first, panel, tiles, two, sums);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        for (int64_t p = 0; p < two; ++p) finish_tile(job, sums[2 * tile + p], panel + p, first + tile * kRows);
      }
    }
  }
  _tile_release();
}

// Linux lets a process use tiles once it has asked.
bool amx_granted() {
  constexpr long kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
}

}  // namespace yanmo

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
