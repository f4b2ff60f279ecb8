// One new token of each row through all layers: a list of steps, recorded once in Python (inference/step.py) and run here
// without a return to Python in between. Buffers are float32 and lie where they lay when the list was recorded.
#include <algorithm>
#include <cmath>

#include "jobs.h"
#include "pool.h"

using namespace yanmo;

enum Kind : int64_t { kLinear = 0, kNorm, kAdd, kActivate, kRotate, kAppend, kAttend };

// As in native.py. What a field means depends on the kind; sizes are per row.
struct YanmoStep {
  int64_t kind;
  const void* what;   // kLinear: YanmoMatrix; kAttend: AttendJob; kNorm: weight; kRotate: cosines (rows, width)
  const void* more;   // kNorm: bias; kActivate: gated; kRotate: sines; kAppend: scales of an int8 cache
  float* x;           // input
  float* out;         // output; kAppend: the layer's keys or values
  int64_t stride, out_stride;  // from row to row; kAppend: out_stride from column to column
  int64_t width;               // numbers of a row, or of a head where there are `parts`
  int64_t parts;               // heads
  int64_t row, part;           // kAppend: strides of the cache from row to row, head to head
  int64_t flag;                // kLinear: 1 where wide; kActivate: which; kAppend: Type
  float eps;
};

namespace {

uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return static_cast<uint16_t>((bits | 0x400000) >> 16);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void rotate(const YanmoStep& step, int64_t rows) {
  const int64_t half = step.width / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const float* cosine = static_cast<const float*>(step.what) + row * step.width;
    const float* sine = static_cast<const float*>(step.more) + row * step.width;
    for (int64_t part = 0; part < step.parts; ++part) {
      float* x = step.x + row * step.stride + part * step.width;
      for (int64_t i = 0; i < half; ++i) {
        const float first = x[i], second = x[i + half];
        x[i] = first * cosine[i] - second * sine[i];
        x[i + half] = second * cosine[i + half] + first * sine[i + half];
      }
    }
  }
}

void append_int8(const YanmoStep& step, const float* x, int64_t at, int64_t scale_at) {
  float most = 0.0f, nothing = 0.0f;
  for (int64_t i = 0; i < step.width; ++i) {
    most = std::max(most, std::fabs(x[i]));
    nothing += x[i] * 0.0f;  // NaN where a number is not finite
  }
  const bool finite = nothing == 0.0f;
  const float scale = finite ? most / 127.0f : kNan, inverse = finite && scale >= kTiny ? 1.0f / scale : 0.0f;
  int8_t* to = reinterpret_cast<int8_t*>(step.out) + at;
  for (int64_t i = 0; i < step.width; ++i) {
    const float code = finite ? std::min(std::max(x[i] * inverse, -127.0f), 127.0f) : 0.0f;
    to[i] = static_cast<int8_t>(std::nearbyint(code));
  }
  static_cast<float*>(const_cast<void*>(step.more))[scale_at] = scale;
}

void append(const YanmoStep& step, int64_t rows, const int64_t* columns) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t part = 0; part < step.parts; ++part) {
      const float* x = step.x + row * step.stride + part * step.width;
      const int64_t at = row * step.row + part * step.part + columns[row] * step.out_stride;
      if (step.flag == kInt8) {
        append_int8(step, x, at, at / step.width);
      } else if (step.flag == kBfloat16) {
        uint16_t* to = reinterpret_cast<uint16_t*>(step.out) + at;
        for (int64_t i = 0; i < step.width; ++i) to[i] = to_bfloat16(x[i]);
      } else {
        std::memcpy(step.out + at, x, static_cast<size_t>(step.width) * sizeof(float));
      }
    }
  }
}

void add(const YanmoStep& step, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* x = step.x + row * step.stride;
    float* out = step.out + row * step.out_stride;
    for (int64_t i = 0; i < step.width; ++i) out[i] += x[i];
  }
}

int run(const YanmoStep& step, int64_t rows, const int64_t* columns, int threads) {
  switch (step.kind) {
    case kLinear: {
      const YanmoInput input{step.x, step.out, rows, step.stride, step.out_stride, kFloat32, step.flag & 1};
      return linear_of(static_cast<const YanmoMatrix*>(step.what), &input, threads);
    }
    case kNorm: {
      const NormJob job{step.x, static_cast<const float*>(step.what), static_cast<const float*>(step.more), step.out,
                        step.stride, step.out_stride, step.width, step.eps, kFloat32};
      for (int64_t part = 0; part < step.parts; ++part) {
        NormJob one = job;
        one.x = step.x + part * step.width;
        one.out = step.out + part * step.width;
        level().normalise(&one, 0, rows);
      }
      return 0;
    }
    case kAdd: add(step, rows); return 0;
    case kActivate: {
      const ActivateJob job{step.x, step.more, step.out, rows * step.width, static_cast<int32_t>(step.flag), kFloat32};
      const int64_t pieces = (job.count + kPiece - 1) / kPiece;
      parallel(pieces >= 16 ? threads : 1, pieces, 4, level().activate, &job);
      return 0;
    }
    case kRotate: rotate(step, rows); return 0;
    case kAppend: append(step, rows, columns); return 0;
    default: {
      AttendJob job = *static_cast<const AttendJob*>(step.what);
      job.rows = rows;
      int64_t work = 0;
      for (int64_t row = 0; row < rows; ++row) work += columns[row] * job.kv_heads * job.head_width;
      return attend_of(&job, work > 8192 ? threads : 1);
    }
  }
}

}  // namespace

// columns: (rows), where each row's new token stands. 0, or 1 where there is no memory.
YANMO_EXPORT int yanmo_run(const YanmoStep* steps, int64_t count, int64_t rows, const int64_t* columns, int threads) {
  for (int64_t i = 0; i < count; ++i) {
    if (run(steps[i], rows, columns, threads) != 0) return 1;
  }
  return 0;
}
