// What every file of the native kernels shares: the table of one processor level, and the jobs that it does.
//
// A matrix of O outputs and I inputs lies in panels of 16 outputs. In a panel, 4 inputs of each of the 16 outputs make
// 64 bytes, and the panel is read from its first byte to its last: one thread reads one linear stream.
//
//   "rows"    8 bits with one scale for each output       [O/16][I/4][16][4], each byte a value + 128
//   "groups"  4 or 8 bits with one scale for 32 inputs    [O/16][I/32] of { half scale[16]; bytes[256 or 512] }
//
// What is multiplied: an input row is turned into signed bytes, "codes", so that
//   rows, 8 bits    x = scale · (code - zero)               one code for each input
//   rows, 16 bits   x = scale · (256 · high + low)          two codes, in two virtual rows; the weights are read once
//   groups          x = scale[group] · code
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__) || defined(_M_X64)
#define YANMO_X86 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#define YANMO_ARM 1
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define YANMO_INLINE __forceinline
#define YANMO_UNROLL
#define YANMO_EXPORT extern "C" __declspec(dllexport)
#else
#if defined(YANMO_SANITIZE)  // sanitizers compile long functions slowly
#define YANMO_INLINE inline
#else
#define YANMO_INLINE inline __attribute__((always_inline))
#endif
#define YANMO_PRAGMA(text) _Pragma(#text)
#if defined(YANMO_SANITIZE)
#define YANMO_UNROLL
#elif defined(__clang__)
#define YANMO_UNROLL YANMO_PRAGMA(unroll)
#else
#define YANMO_UNROLL YANMO_PRAGMA(GCC unroll 64)
#endif
#define YANMO_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace yanmo {

constexpr int kLanes = 16;    // outputs of a panel
constexpr int kGroup = 32;    // inputs that share a scale in "groups"
constexpr int kAlign = 64;    // inputs of "rows" are filled up to a multiple, which is the width of a tile (amx.cpp)
constexpr float kTiny = 1e-30f;  // a row whose scale is smaller is a row of zeros: 1 / scale must be finite

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

enum Type : int32_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };

// One virtual row of codes.
struct Row {
  float scale;   // NaN where the input holds a value that is not finite: then the output is NaN
  int32_t zero;  // the code of 0
  int32_t sum;   // of the codes
};

// How the values of a matrix lie.
enum Format : int32_t { kRows8 = 0, kGroups4 = 4, kGroups8 = 8 };

struct QuantiseJob {
  const void* x;
  int64_t stride;  // elements from one input row to the next
  Type type;
  int64_t inputs, padded;
  bool wide;       // 16 bits
  bool grouped;
  bool flat;       // codes lie [row][padded], for tiles; else in blocks of `lanes` virtual rows, [padded/4][lanes][4]
  int64_t virtual_rows, lanes;
  int8_t* codes;
  Row* rows;       // of "rows"
  float* scales;   // of "groups", in blocks of `lanes` rows: [group][lanes]
  int32_t* sums;   // of "groups", the same
};

struct LinearJob {
  Format format;
  const uint8_t* panels;
  const float* scale;        // "rows": [O], filled up to whole panels
  const int32_t* sums;       // "rows": [O], sums of the values over the inputs, filled up
  const float* bias;         // [O] or null
  int64_t outputs, padded;
  bool wide;
  int64_t virtual_rows, lanes;
  int64_t chunk;             // virtual rows whose codes stay in the cache while all panels pass; a multiple of lanes
  const int8_t* codes;
  const Row* rows;
  const float* row_scales;
  const int32_t* row_sums;
  void* out;
  int64_t out_stride;
  Type type;
};

// A few queries over a cache, whose column is a position. Strides count elements; the last dimension has none.
struct AttendJob {
  const void* query;  // (rows, heads, tokens, head_width)
  const void* key;    // (rows, kv_heads, columns, head_width)
  const void* value;
  const float* key_scale;    // (rows, kv_heads, columns) of an int8 cache, or null; both with the same strides
  const float* value_scale;
  const int64_t* last;       // (rows, tokens): the last column that a token sees; below 0: none
  void* out;                 // (rows, tokens, heads, head_width)
  const int32_t* places;     // (rows, columns): at which column of key and value each stands; null: at its own
  int64_t query_row, query_head, query_token;
  int64_t key_row, key_head, key_column;
  int64_t value_row, value_head, value_column;
  int64_t scale_row, scale_head, scale_column, place_row;
  int64_t out_row, out_token, out_head;
  int64_t rows, kv_heads, groups, tokens, head_width;
  int64_t window;  // columns that a token sees, its own included; 0: all
  float scale;
  int32_t type;    // of query and out
  int32_t cached;  // of key and value
  std::atomic<bool>* failed;
};

// LayerNorm, or RMSNorm where there is no bias, of rows of `width` numbers.
struct NormJob {
  const void* x;
  const float* weight;
  const float* bias;
  void* out;
  int64_t stride, out_stride, width;
  float eps;
  int32_t type;
};

constexpr int64_t kPiece = 1024;  // numbers of a task of `activate`

enum Activation : int32_t { kGelu = 0, kGeluTanh, kRelu, kReluSquared, kSilu, kTanh };

// out = activation(x), or activation(x) · gated.
struct ActivateJob {
  const void* x;
  const void* gated;  // or null
  void* out;
  int64_t count;
  int32_t activation;
  int32_t type;
};

// Memory of the calling thread, kept from call to call: null where the system has none. One piece at a time.
uint8_t* scratch(size_t bytes);

// What one level of processor can do, each a body for `parallel` (pool.h). Tasks of `quantise` are input rows, those of
// `linear` pairs of a chunk of rows and a panel, of `attend` (row, key head, token), of `normalise` rows, of `activate`
// pieces.
struct Level {
  const char* name;
  int rows_lanes, groups_lanes;  // the most virtual rows that a panel is multiplied with at once
  void (*quantise)(const void* job, int64_t begin, int64_t end);
  void (*linear)(const void* job, int64_t begin, int64_t end);
  void (*attend)(const void* job, int64_t begin, int64_t end);
  void (*normalise)(const void* job, int64_t begin, int64_t end);
  void (*activate)(const void* job, int64_t begin, int64_t end);
  // "rows" with many virtual rows, whose codes lie flat; tasks are pairs of a chunk of rows and two panels. Or null.
  void (*tiles)(const void* job, int64_t begin, int64_t end);
};

constexpr int64_t kTileRows = 16;     // codes for tiles lie in whole tiles of rows
constexpr int64_t kTilesFrom = 8;     // virtual rows from which tiles are faster

}  // namespace yanmo
