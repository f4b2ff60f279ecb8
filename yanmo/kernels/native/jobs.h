// What Python and the steps (step.cpp) ask for: a matrix, its input, and the functions that divide the work.
#pragma once

#include "common.h"

namespace yanmo {

struct YanmoMatrix {
  const uint8_t* panels;
  const float* scale;   // "rows"
  const int32_t* sums;  // "rows"
  const float* bias;    // or null
  int64_t outputs, inputs;
  int64_t format;
};

// x and out: (rows, inputs) and (rows, outputs); strides in elements.
struct YanmoInput {
  const void* x;
  void* out;
  int64_t rows, stride, out_stride;
  int64_t type;
  int64_t wide;
};

// The level in use.
const Level& level();

// 0, or 1 where there is no memory.
int linear_of(const YanmoMatrix* w, const YanmoInput* in, int threads);
int attend_of(const AttendJob* job, int threads);

}  // namespace yanmo
