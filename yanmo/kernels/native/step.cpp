// One new token of each row through all layers: a list of steps, recorded once in Python (inference/step.py) and run here
// without a return to Python in between. Buffers are float32 and lie where they lay when the list was recorded.
#include <algorithm>
#include <cmath>

#include "jobs.h"
#include "pool.h"

using namespace yanmo;

enum Kind : int64_t { kLinear = 0, kNorm, kAdd, kActivate, kRotate, kAppend, kAttend, kEmbed };

// As in native.py. What a field means depends on the kind; sizes are per row.
struct YanmoStep {
  int64_t kind;
  const void* what;   // kLinear, kEmbed: YanmoMatrix; kAttend: AttendJob; kNorm: weight; kRotate: cosines (columns, width)
  const void* more;   // kNorm: bias; kActivate: gated; kRotate: sines; kEmbed: what is added for each position
                      // (positions, width), or null
  float* x;           // input
  float* out;         // output; kAppend: the layer's keys or values
  int64_t stride, out_stride;  // from row to row; kAppend: out_stride from column to column
  int64_t width;               // numbers of a row, or of a head where there are `parts`
  int64_t parts;               // heads
  int64_t row, part;           // kAppend: strides of the cache from row to row, head to head; kEmbed: row before the first
  int64_t flag;                // kLinear: 1 where wide; kActivate: which; kAppend: Type
  float eps;                   // kNorm; kEmbed: by what the vectors are multiplied
};

namespace {

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

float half_to_float(uint16_t half) {
  const uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
  const float size = exponent == 0    ? std::ldexp(static_cast<float>(fraction), -24)
                     : exponent == 31 ? (fraction ? kNan : HUGE_VALF)
                                      : std::ldexp(static_cast<float>(fraction | 1024), static_cast<int>(exponent) - 25);
  return half & 0x8000 ? -size : size;
}

uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return static_cast<uint16_t>((bits | 0x400000) >> 16);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// A row of a packed matrix in float32, as rows_of of matrix.py gives it.
void unpack(const YanmoMatrix& m, int64_t id, float scale, float* out) {
  const int64_t lane = id % kLanes, width = m.inputs;
  if (m.format == kRows8) {
    const uint8_t* panel = m.panels + id / kLanes * kLanes * round_up(width, kAlign);
    const float own = m.scale[id];
    for (int64_t i = 0; i < width; ++i) {
      const int32_t value = panel[i / 4 * (4 * kLanes) + lane * 4 + i % 4] - 128;
      out[i] = static_cast<float>(value) * own * scale;
    }
    return;
  }
  const bool four = m.format == kGroups4;
  const int64_t groups = round_up(width, kGroup) / kGroup, bytes = kLanes * (four ? 18 : 34);
  const uint8_t* panel = m.panels + id / kLanes * groups * bytes;
  for (int64_t i = 0; i < width; ++i) {
    const uint8_t* block = panel + i / kGroup * bytes;
    const int64_t quad = i % kGroup / 4, place = lane * 4 + i % 4;
    uint16_t half;
    std::memcpy(&half, block + 2 * lane, 2);
    const uint8_t* values = block + 2 * kLanes;
    const int32_t value = four ? (values[quad / 2 * (4 * kLanes) + place] >> (quad % 2 * 4) & 15) - 8
                               : values[quad * (4 * kLanes) + place] - 128;
    out[i] = static_cast<float>(value) * half_to_float(half) * scale;
  }
}

int embed(const YanmoStep& step, int64_t rows, const int64_t* ids, const int64_t* columns) {
  const YanmoMatrix& matrix = *static_cast<const YanmoMatrix*>(step.what);
  for (int64_t row = 0; row < rows; ++row) {
    if (ids[row] < 0 || ids[row] >= matrix.outputs) return 2;
    float* out = step.out + row * step.out_stride;
    unpack(matrix, ids[row], step.eps, out);
    if (step.more == nullptr) continue;
    const float* added = static_cast<const float*>(step.more) + (columns[row] + step.row) * step.width;
    for (int64_t i = 0; i < step.width; ++i) out[i] += added[i];
  }
  return 0;
}

void rotate(const YanmoStep& step, int64_t rows, const int64_t* columns) {
  const int64_t half = step.width / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const float* cosine = static_cast<const float*>(step.what) + columns[row] * step.width;
    const float* sine = static_cast<const float*>(step.more) + columns[row] * step.width;
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

// As models/held.py lays it: codes, and behind them, from a multiple of 4 bytes on, their scale.
void append_int8(const YanmoStep& step, const float* x, int64_t at) {
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
  std::memcpy(to + round_up(step.width, 4), &scale, sizeof(scale));
}

void append(const YanmoStep& step, int64_t rows, const int64_t* columns) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t part = 0; part < step.parts; ++part) {
      const float* x = step.x + row * step.stride + part * step.width;
      const int64_t at = row * step.row + part * step.part + columns[row] * step.out_stride;
      if (step.flag == kInt8) {
        append_int8(step, x, at);
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

int run(const YanmoStep& step, int64_t rows, const int64_t* ids, const int64_t* columns, int threads) {
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
      const float* gated = static_cast<const float*>(step.more);
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t from = row * step.stride;
        const ActivateJob job{step.x + from, gated == nullptr ? nullptr : gated + from, step.out + row * step.out_stride,
                              step.width, static_cast<int32_t>(step.flag), kFloat32};
        const int64_t pieces = (job.count + kPiece - 1) / kPiece;
        parallel(pieces >= 16 ? threads : 1, pieces, 4, level().activate, &job);
      }
      return 0;
    }
    case kEmbed: return embed(step, rows, ids, columns);
    case kRotate: rotate(step, rows, columns); return 0;
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

// ids, columns: (rows), the new tokens and where they stand. 0; 1 where there is no memory; 2 for an id that is no word.
YANMO_EXPORT int yanmo_run(const YanmoStep* steps, int64_t count, int64_t rows, const int64_t* ids,
                           const int64_t* columns, int threads) {
  for (int64_t i = 0; i < count; ++i) {
    const int failed = run(steps[i], rows, ids, columns, threads);
    if (failed != 0) return failed;
  }
  return 0;
}
