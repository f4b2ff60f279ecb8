// AMX (Sapphire Rapids and later): products of matrices in bfloat16 for training, in tiles of 16 rows x 32 inputs x 16
// columns. A task packs up to 128 columns of the second matrix as tiles want them, which stay in the cache, and goes over
// rows of the first, 32 at a time. The library that torch calls packs too, in passes of its own, and writes code anew for
// each number of rows.
#include "common.h"
#include "train.h"

#if defined(YANMO_X86) && defined(__linux__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#include <immintrin.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")
#endif

namespace yanmo {
namespace {

constexpr int64_t kTile = 16, kDeep = 32, kTileBytes = 1024;

#include "turn.inl"

struct alignas(64) Config {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
  Config() {
    for (int i = 0; i < 8; ++i) bytes[i] = 64, rows[i] = kTile;
  }
};

// Memory of a thread for its packed columns, kept from call to call.
struct Room {
  void* memory = nullptr;
  size_t bytes = 0;
  ~Room() { std::free(memory); }

  uint8_t* of(size_t wanted) {
    if (wanted > bytes) {
      std::free(memory);
      bytes = (wanted + 4095) / 4096 * 4096;
      memory = std::aligned_alloc(4096, bytes);
      if (memory == nullptr) bytes = 0;
    }
    return static_cast<uint8_t*>(memory);
  }
};

// Packed: tiles of 16 pairs of inputs x 16 columns, those of 32 columns side by side, one depth of 32 after another.

// From rows of inputs: the numbers of two rows alternate.
void pack_rows(const ProductJob& job, int64_t first, int64_t columns, uint8_t* to) {
  alignas(64) uint16_t order[2][32];
  for (int i = 0; i < 32; ++i) {
    for (int half = 0; half < 2; ++half) order[half][i] = static_cast<uint16_t>(16 * half + i / 2 + i % 2 * 32);
  }
  const __m512i left = _mm512_load_si512(order[0]), right = _mm512_load_si512(order[1]);
  for (int64_t k = 0; k < job.depth; k += 2) {
    const uint16_t* from = job.b + k * job.b_stride + first;
    for (int64_t n = 0; n < columns; n += kDeep) {
      const __m512i x = _mm512_loadu_si512(from + n), y = _mm512_loadu_si512(from + job.b_stride + n);
      uint8_t* at = to + n * job.depth * 2 + k / kDeep * 2 * kTileBytes + k % kDeep / 2 * 64;
      _mm512_store_si512(at, _mm512_permutex2var_epi16(x, left, y));
      _mm512_store_si512(at + kTileBytes, _mm512_permutex2var_epi16(x, right, y));
    }
  }
}

// The 16 x 16 pairs of one tile, rows as columns.
YANMO_INLINE void pack_tile(const uint16_t* from, int64_t stride, uint8_t* to) {
  __m512i x[16], y[16];
  YANMO_UNROLL
  for (int i = 0; i < 16; ++i) x[i] = _mm512_loadu_si512(from + i * stride);
  YANMO_UNROLL
  for (int i = 0; i < 8; ++i) {
    y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
    y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
  }
  YANMO_UNROLL
  for (int i = 0; i < 4; ++i) {
    x[4 * i] = _mm512_unpacklo_epi64(y[4 * i], y[4 * i + 2]);
    x[4 * i + 1] = _mm512_unpackhi_epi64(y[4 * i], y[4 * i + 2]);
    x[4 * i + 2] = _mm512_unpacklo_epi64(y[4 * i + 1], y[4 * i + 3]);
    x[4 * i + 3] = _mm512_unpackhi_epi64(y[4 * i + 1], y[4 * i + 3]);
  }
  YANMO_UNROLL
  for (int i = 0; i < 4; ++i) {  // x[4g + i]: column i of each quarter, of the rows of group g
    const __m512i a = _mm512_shuffle_i32x4(x[i], x[4 + i], 0x88), b = _mm512_shuffle_i32x4(x[i], x[4 + i], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0x88), d = _mm512_shuffle_i32x4(x[8 + i], x[12 + i], 0xdd);
    _mm512_store_si512(to + 64 * i, _mm512_shuffle_i32x4(a, c, 0x88));
    _mm512_store_si512(to + 64 * (4 + i), _mm512_shuffle_i32x4(b, d, 0x88));
    _mm512_store_si512(to + 64 * (8 + i), _mm512_shuffle_i32x4(a, c, 0xdd));
    _mm512_store_si512(to + 64 * (12 + i), _mm512_shuffle_i32x4(b, d, 0xdd));
  }
}

void pack_columns(const ProductJob& job, int64_t first, int64_t columns, uint8_t* to) {
  for (int64_t n = 0; n < columns; n += kTile) {
    const uint16_t* from = job.b + (first + n) * job.b_stride;
    uint8_t* at = to + n / kDeep * kDeep * job.depth * 2 + n % kDeep / kTile * kTileBytes;
    for (int64_t k = 0; k < job.depth; k += kDeep) pack_tile(from + k, job.b_stride, at + k / kDeep * 2 * kTileBytes);
  }
}

YANMO_INLINE __m512 wide(const uint16_t* p) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// Sums that are to become outputs: a few rows at a time, while the tiles are at work on the next ones.
struct Done {
  const float* sums = nullptr;  // (rows, 32)
  uint16_t* out = nullptr;
  const uint16_t* bias = nullptr;
  int64_t rows = 0;

  YANMO_INLINE void finish(const ProductJob& job, int64_t most) {
    for (; most > 0 && rows > 0; --most, --rows, sums += kDeep, out += job.out_stride) {
      __m512 x = _mm512_load_ps(sums), y = _mm512_load_ps(sums + 16);
      if (bias != nullptr) x = _mm512_add_ps(x, wide(bias)), y = _mm512_add_ps(y, wide(bias + 16));
      if (job.add) x = _mm512_add_ps(x, wide(out)), y = _mm512_add_ps(y, wide(out + 16));
      const __m512bh both = _mm512_cvtne2ps_pbh(y, x);
      std::memcpy(out, &both, 64);
    }
  }
};

// Tiles 0-3: sums of (rows, columns) 00, 01, 10, 11; 4, 5: the first matrix; 6, 7: the second.
template <bool Two>
YANMO_INLINE void multiply(const ProductJob& job, const uint16_t* a, const uint8_t* packed, const uint8_t* ahead,
                           float* sums, Done& done) {
  const int64_t stride = job.a_stride * 2;
  const uint16_t* below = a + kTile * job.a_stride;
  _tile_zero(0);
  _tile_zero(1);
  if (Two) _tile_zero(2);
  if (Two) _tile_zero(3);
  for (int64_t k = 0; k < job.depth; k += kDeep) {
    _tile_loadd(4, a + k, stride);
    _tile_loadd(6, packed + k * 64, 64);
    _tile_loadd(7, packed + k * 64 + kTileBytes, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (Two) {
      _tile_loadd(5, below + k, stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    if (ahead != nullptr) {  // the next rows of the first matrix
      for (int i = 0; i < 8; ++i) _mm_prefetch(reinterpret_cast<const char*>(ahead + i * stride + k * 2), _MM_HINT_T1);
    }
    done.finish(job, 2);
  }
  done.finish(job, done.rows);
  _tile_stored(0, sums, 128);
  _tile_stored(1, sums + 16, 128);
  if (Two) _tile_stored(2, sums + 16 * 32, 128);
  if (Two) _tile_stored(3, sums + 16 * 32 + 16, 128);
}

// Some columns, from `first` on, of the rows from `row` to `last`.
void multiply_strip(const ProductJob& job, int64_t first, int64_t row, int64_t last, uint8_t* packed) {
  alignas(64) float sums[kStrip / kDeep][kDeep * kDeep];
  const int64_t columns = job.columns - first < job.strip ? job.columns - first : job.strip;
  if (job.turned) pack_columns(job, first, columns, packed);
  else pack_rows(job, first, columns, packed);
  Done done;
  for (; row < last; row += 2 * kTile) {
    const uint16_t* a = job.a + row * job.a_stride;
    const int64_t rows = last - row > kTile ? 2 * kTile : kTile;
    for (int64_t n = 0; n < columns; n += kDeep) {
      const int64_t next = row + 2 * kTile + n / kDeep * 8;  // four times eight rows
      const void* ahead = next + 8 <= last ? job.a + next * job.a_stride : nullptr;
      const uint8_t* from = packed + n * job.depth * 2;
      float* to = sums[n / kDeep];
      if (rows > kTile) multiply<true>(job, a, from, static_cast<const uint8_t*>(ahead), to, done);
      else multiply<false>(job, a, from, nullptr, to, done);
      const uint16_t* bias = job.bias == nullptr ? nullptr : job.bias + first + n;
      done = {to, job.out + row * job.out_stride + first + n, bias, rows};
    }
  }
  done.finish(job, done.rows);
}

}  // namespace

// Tasks are (part of the rows, part of the columns).
void amx_product(const void* argument, int64_t begin, int64_t end) {
  const ProductJob& job = *static_cast<const ProductJob*>(argument);
  static thread_local Room room;
  const Config config;
  const int64_t strips = (job.columns + job.strip - 1) / job.strip;
  uint8_t* packed = room.of(static_cast<size_t>(job.strip * job.depth * 2));
  if (packed == nullptr) return job.failed->store(true);
  _tile_loadconfig(&config);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t row = task / strips * job.part, last = job.rows - row < job.part ? job.rows : row + job.part;
    multiply_strip(job, task % strips * job.strip, row, last, packed);
  }
  _tile_release();
}

// Tasks are products (row, head).
void amx_heads(const void* argument, int64_t begin, int64_t end) {
  const HeadsJob& all = *static_cast<const HeadsJob*>(argument);
  static thread_local Room room;
  const Config config;
  const int64_t size = all.one.rows * all.one.depth, packed_bytes = all.one.strip * all.one.depth * 2;
  uint8_t* packed = room.of(static_cast<size_t>(packed_bytes + size * 2));
  if (packed == nullptr) return all.one.failed->store(true);
  uint16_t* turned = reinterpret_cast<uint16_t*>(packed + packed_bytes);
  _tile_loadconfig(&config);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t row = task / all.heads, head = task % all.heads;
    ProductJob job = all.one;
    job.a += row * all.a_row + head * all.a_head;
    job.b += row * all.b_row + head * all.b_head;
    job.out += row * all.out_row + head * all.out_head;
    if (all.a_turned) {  // (depth, rows) as it lies
      for (int64_t k = 0; k < job.depth; k += 8) {
        for (int64_t i = 0; i < job.rows; i += 8) {
          turn_block(job.a + k * job.a_stride + i, job.a_stride, turned + i * job.depth + k, job.depth);
        }
      }
      job.a = turned;
      job.a_stride = job.depth;
    }
    for (int64_t first = 0; first < job.columns; first += job.strip) multiply_strip(job, first, 0, job.rows, packed);
  }
  _tile_release();
}

// Of processors that have tiles: whether they take bfloat16.
bool amx_bfloat16() {
  unsigned a = 0, b = 0, c = 0, d = 0, more = 0;
  __get_cpuid_count(7, 0, &a, &b, &c, &d);
  __get_cpuid_count(7, 1, &more, &b, &c, &a);
  return (d >> 22 & 1) != 0 && (more >> 5 & 1) != 0;  // AMX_BF16, AVX512_BF16
}

}  // namespace yanmo

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
