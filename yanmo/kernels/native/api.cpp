// The C interface that Python calls. Sizes are checked there; nothing here allocates for a caller or keeps a pointer.
#include <atomic>
#include <cstdlib>
#include <new>

#include "common.h"
#include "cpu.h"
#include "jobs.h"
#include "pool.h"

namespace yanmo {
namespace {

std::atomic<const Level*> chosen{nullptr};

}  // namespace

const Level& level() {
  const Level* found = chosen.load(std::memory_order_relaxed);
  if (found == nullptr) {
    const Level* const* all = levels();
    while (*all != nullptr) found = *all++;
    chosen.store(found, std::memory_order_relaxed);
  }
  return *found;
}

namespace {

// Memory of the calling thread that is kept from call to call and grows; zero bytes of it outlive the thread.
class Scratch {
 public:
  ~Scratch() { std::free(held_); }

  // Null where the system has no memory.
  uint8_t* get(size_t bytes) {
    if (bytes > size_) {
      std::free(held_);
      size_ = bytes + bytes / 4;
      held_ = std::malloc(size_ + 64);
      if (held_ == nullptr) size_ = 0;
    }
    if (held_ == nullptr) return nullptr;
    return reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(held_) + 63) & ~uintptr_t{63});
  }

 private:
  void* held_ = nullptr;
  size_t size_ = 0;
};

thread_local Scratch held;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

constexpr int64_t kChunkBytes = 512 * 1024;  // of codes, which share the second cache with a panel
constexpr int64_t kGrainBytes = 64 * 1024;   // of weights, that a thread takes at once

}  // namespace

uint8_t* scratch(size_t bytes) { return held.get(bytes); }

}  // namespace yanmo

using namespace yanmo;

YANMO_EXPORT int yanmo_version() { return 4; }

int yanmo::attend_of(const AttendJob* given, int threads) {
  std::atomic<bool> failed{false};
  AttendJob job = *given;
  job.failed = &failed;
  const int64_t tasks = job.rows * job.kv_heads * job.tokens;
  parallel(threads, tasks, 1, level().attend, &job);
  return failed.load() ? 1 : 0;
}

// The name of the n-th level that this processor has, from the plainest on; null past the last.
YANMO_EXPORT const char* yanmo_level_name(int n) {
  const Level* const* all = levels();
  for (int i = 0; all[i] != nullptr; ++i) {
    if (i == n) return all[i]->name;
  }
  return nullptr;
}

YANMO_EXPORT void yanmo_use_level(int n) { chosen.store(levels()[n]); }

YANMO_EXPORT const char* yanmo_level() { return level().name; }

int yanmo::linear_of(const YanmoMatrix* w, const YanmoInput* in, int threads) {
  const Level& best = level();
  const int64_t rows = in->rows;
  const bool grouped = w->format != kRows8;
  const int64_t padded = round_up(w->inputs, grouped ? kGroup : kAlign);
  const int64_t groups = grouped ? padded / kGroup : 0;
  const int64_t virtual_rows = in->wide && !grouped ? 2 * rows : rows;
  const int64_t most = grouped ? best.groups_lanes : best.rows_lanes;
  const int64_t blocks = (virtual_rows + most - 1) / most;
  int64_t lanes = (virtual_rows + blocks - 1) / blocks;  // blocks of equal size, and pairs stay together
  if (virtual_rows != rows) lanes += lanes % 2;

  const bool tiled = !grouped && best.tiles != nullptr && virtual_rows >= kTilesFrom;
  const int64_t held = tiled ? round_up(virtual_rows, kTileRows) : virtual_rows;
  const size_t code_bytes = static_cast<size_t>(round_up(held * padded, 64));
  const size_t row_bytes = grouped ? static_cast<size_t>(virtual_rows * groups) * 8 : virtual_rows * sizeof(Row);
  uint8_t* memory = scratch(code_bytes + row_bytes);
  if (memory == nullptr) return 1;

  QuantiseJob codes{};
  codes.x = in->x;
  codes.stride = in->stride;
  codes.type = static_cast<Type>(in->type);
  codes.inputs = w->inputs;
  codes.padded = padded;
  codes.wide = virtual_rows != rows;
  codes.grouped = grouped;
  codes.virtual_rows = virtual_rows;
  codes.lanes = lanes;
  codes.flat = tiled;
  codes.codes = reinterpret_cast<int8_t*>(memory);
  codes.rows = reinterpret_cast<Row*>(memory + code_bytes);
  codes.scales = reinterpret_cast<float*>(memory + code_bytes);
  codes.sums = reinterpret_cast<int32_t*>(codes.scales + virtual_rows * groups);
  parallel(rows >= 8 ? threads : 1, rows, 4, best.quantise, &codes);
  if (held > virtual_rows) {
    std::memset(codes.codes + virtual_rows * padded, 0, static_cast<size_t>((held - virtual_rows) * padded));
  }

  LinearJob job{};
  job.format = static_cast<Format>(w->format);
  job.panels = w->panels;
  job.scale = w->scale;
  job.sums = w->sums;
  job.bias = w->bias;
  job.outputs = w->outputs;
  job.padded = padded;
  job.wide = codes.wide;
  job.virtual_rows = virtual_rows;
  job.lanes = lanes;
  job.chunk = round_up(kChunkBytes / padded + 1, tiled ? 2 * kTileRows : lanes);
  job.codes = codes.codes;
  job.rows = codes.rows;
  job.row_scales = codes.scales;
  job.row_sums = codes.sums;
  job.out = in->out;
  job.out_stride = in->out_stride;
  job.type = static_cast<Type>(in->type);
  const int64_t panels = round_up(w->outputs, kLanes) / kLanes, tasks = tiled ? (panels + 1) / 2 : panels;
  const int64_t chunks = (virtual_rows + job.chunk - 1) / job.chunk;
  const int64_t panel_bytes = kLanes * padded * (w->format == kGroups4 ? 9 : 16) / 16;
  const bool small = panels * panel_bytes * rows < kGrainBytes;
  const int64_t grain = kGrainBytes / (tiled ? 2 * panel_bytes : panel_bytes);
  parallel(small ? 1 : threads, tasks * chunks, grain, tiled ? best.tiles : best.linear, &job);
  return 0;
}

// out = x Wᵀ + b. 0, or 1 where there is no memory.
YANMO_EXPORT int yanmo_linear(const void* panels, const void* scale, const void* sums, const void* bias,
                              int64_t outputs, int64_t inputs, int64_t format, const void* x, int64_t rows,
                              int64_t stride, void* out, int64_t type, int64_t wide, int threads) {
  const YanmoMatrix matrix{static_cast<const uint8_t*>(panels), static_cast<const float*>(scale),
                           static_cast<const int32_t*>(sums), static_cast<const float*>(bias), outputs, inputs, format};
  const YanmoInput input{x, out, rows, stride, outputs, type, wide};
  return linear_of(&matrix, &input, threads);
}

// Attention of a few tokens over a cache: the fields of AttendJob but the last. 0, or 1 where there is no memory.
YANMO_EXPORT int yanmo_attend(const AttendJob* job, int threads) { return attend_of(job, threads); }

YANMO_EXPORT void yanmo_normalise(const NormJob* job, int64_t rows, int threads) {
  const int64_t grain = kGrainBytes / (job->width * 4) + 1;
  parallel(threads, rows, grain, level().normalise, job);
}

YANMO_EXPORT void yanmo_activate(const ActivateJob* job, int threads) {
  parallel(threads, (job->count + kPiece - 1) / kPiece, 8, level().activate, job);
}
