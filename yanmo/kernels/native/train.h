// What training asks for: passes over memory that torch makes several of. Numbers of activations are bfloat16; sums are
// float32. Included by the file of each level (train.inl) and by the C interface (train.cpp).
#pragma once

#include <atomic>
#include <cstdint>

namespace yanmo {

// AdamW of one parameter. The gradient may lie where `low` does: it is read before `low` is written.
struct AdamJob {
  float* weight;
  float* first;    // moments
  float* second;
  const void* gradient;  // bfloat16, or float32; null: all 0
  uint16_t* low;   // the weight in bfloat16, or null
  int64_t count;
  int32_t wide;    // whether the gradient is float32
  float scale;     // on the gradient
  float keep;      // 1 - rate * decay
  float beta1, beta2;
  float step;      // rate / (1 - beta1^t)
  float root;      // 1 / sqrt(1 - beta2^t)
  float eps;
};

// Numbers of one array, to be squared and summed.
struct SquaresJob {
  const void* numbers;
  int64_t count;
  int32_t wide;
};

// LayerNorm of what a part of a layer adds to the residual stream, after dropout.
struct JoinJob {
  const uint16_t* residual;  // (rows, width)
  uint16_t* branch;          // in: what is added; out: the sum
  const uint16_t* weight;    // (width)
  const uint16_t* bias;
  uint16_t* out;
  float* stats;              // (rows, 2): mean, and one over the standard deviation
  int64_t rows, width;
  uint64_t seed;
  int32_t limit;             // of 15 random bits, below which a number is dropped; 0: none is
  float factor;              // on what is kept
  float eps;
};

// Its gradient.
struct JoinBackJob {
  const uint16_t* upstream;  // (rows, width)
  const uint16_t* sum;
  const uint16_t* weight;
  const float* stats;
  uint16_t* residual;        // out: the gradient of the sum
  uint16_t* branch;          // out: the same through dropout; may be `residual` where limit is 0
  float* columns;            // out: (blocks, 3, width): gradients of weight and bias, and the sum of `branch`
  int64_t rows, width;
  uint64_t seed;
  int32_t limit;
  float factor;
};

// GELU, and its gradient with the column sums of it.
struct CurveJob {
  const uint16_t* x;         // (rows, width)
  uint16_t* out;             // gelu(x)
  uint16_t* upstream;        // in: the gradient of gelu(x); out: that of x; null: forward alone
  float* columns;            // out: (blocks, width)
  int64_t rows, width;
};

// Softmax over the keys that a query sees, first to last - 1, and dropout of the weights.
struct WeighJob {
  uint16_t* scores;          // (rows * heads, columns, keys); in: scores; out: weights, 0 where nothing is seen
  uint16_t* dropped;         // out: the same after dropout; may be `scores` where limit is 0
  const int32_t* range;      // (rows, columns, 2)
  int64_t rows, heads, columns, keys;
  float scale;
  uint64_t seed;
  int32_t limit;
  float factor;
};

// Its gradient.
struct WeighBackJob {
  const uint16_t* weights;
  uint16_t* upstream;        // in: the gradient of what was dropped; out: that of the scores before their scale
  uint16_t* dropped;         // out: the weights after dropout; may be `weights` where limit is 0
  const int32_t* range;
  int64_t rows, heads, columns, keys;
  float scale;
  uint64_t seed;
  int32_t limit;
  float factor;
};

// A matrix with its rows as columns.
struct TurnJob {
  const uint16_t* x;         // (rows, width), width a multiple of 8
  uint16_t* out;             // (width, rows)
  int64_t rows, width;
};

// A product of matrices, out = a b [+ bias] [+ out]. Rows are multiples of 16, depth and columns of 32; strides are those
// of rows, in numbers. Filled up by train.cpp: how the work is parted.
struct ProductJob {
  const uint16_t* a;         // (rows, depth)
  const uint16_t* b;         // (depth, columns); turned: (columns, depth)
  const uint16_t* bias;      // (columns), or null
  uint16_t* out;             // (rows, columns)
  int64_t rows, depth, columns, a_stride, b_stride, out_stride;
  int32_t turned, add;
  int64_t strip, part;       // columns and rows of a task
  std::atomic<bool>* failed;
};

// A product for each row and head; `one` is that of the first, and the others lie so many numbers further.
struct HeadsJob {
  ProductJob one;
  int64_t count, heads;      // rows times heads
  int64_t a_row, a_head, b_row, b_head, out_row, out_head;
  int32_t a_turned;          // a: (depth, rows)
};

constexpr int64_t kAdamPiece = 1 << 14;  // numbers of a task
constexpr int64_t kRowBlock = 16;        // rows of a task
constexpr int64_t kTurned = 32;          // columns of a task
constexpr int64_t kStrip = 128;          // columns of a task of a product

// The bodies of one level; tasks are pieces, blocks of rows, or (row, head).
struct TrainLevel {
  void (*adam)(const AdamJob& job, int64_t begin, int64_t end);
  double (*squares)(const SquaresJob& job, int64_t begin, int64_t end);
  void (*join)(const void* job, int64_t begin, int64_t end);
  void (*join_back)(const void* job, int64_t begin, int64_t end);
  void (*curve)(const void* job, int64_t begin, int64_t end);
  void (*weigh)(const void* job, int64_t begin, int64_t end);
  void (*weigh_back)(const void* job, int64_t begin, int64_t end);
  void (*turn)(const void* job, int64_t begin, int64_t end);
};

}  // namespace yanmo
