// The C interface of training's passes (train.h). Sizes are checked in Python (yanmo/kernels/training.py).
#include "train.h"

#if defined(__GNUC__) || defined(__clang__)  // others lack the vectors of train.inl; the layers run in torch

#include <algorithm>
#include <atomic>
#include <cstring>

#include "common.h"
#include "pool.h"

YANMO_EXPORT const char* yanmo_level();  // api.cpp

namespace yanmo {

extern const TrainLevel train_plain;
#if defined(YANMO_X86)
extern const TrainLevel train_avx2, train_avx512, train_avx512bf16;
bool avx512_bfloat16();
#endif

#if defined(YANMO_X86) && defined(__linux__)
#define YANMO_TILES 1
void amx_product(const void* job, int64_t begin, int64_t end);
void amx_heads(const void* job, int64_t begin, int64_t end);
bool amx_bfloat16();
#endif

namespace {

const TrainLevel& train_level() {
#if defined(YANMO_X86)
  const char* name = yanmo_level();
  if (std::strcmp(name, "avx512") == 0 || std::strcmp(name, "amx") == 0) {
    static const bool rounds = avx512_bfloat16();
    return rounds ? train_avx512bf16 : train_avx512;
  }
  if (std::strncmp(name, "avx", 3) == 0) return train_avx2;
#endif
  return train_plain;
}

// GOMP_parallel of the OpenMP library whose threads torch has started, or null. Its threads go on looking for work for
// milliseconds after each of torch's operations, and would stand in the way of other threads.
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);
std::atomic<Team> team{nullptr};

struct Share {
  Body body;
  const void* job;
  int64_t tasks, grain;
  std::atomic<int64_t> next{0};
};

void work(void* argument) {
  Share& share = *static_cast<Share*>(argument);
  for (;;) {
    const int64_t begin = share.next.fetch_add(share.grain, std::memory_order_relaxed);
    if (begin >= share.tasks) return;
    share.body(share.job, begin, std::min(begin + share.grain, share.tasks));
  }
}

void spread(int threads, int64_t tasks, int64_t grain, Body body, const void* job) {
  const Team found = team.load(std::memory_order_relaxed);
  if (tasks <= 0) return;
  if (threads == 1) return body(job, 0, tasks);
  if (found == nullptr) return parallel(threads, tasks, grain, body, job);
  Share share{body, job, tasks, grain};
  found(work, &share, static_cast<unsigned>(threads), 0);
}

// Pieces of several arrays, counted through.
template <typename Job>
struct Pieces {
  const Job* jobs;
  int64_t count;
  const int64_t* ends;  // pieces up to each array
  double* sums;
};

int64_t pieces_of(int64_t numbers) { return (numbers + kAdamPiece - 1) / kAdamPiece; }

template <typename Job, typename Body>
void each_piece(const Pieces<Job>& all, int64_t begin, int64_t end, Body body) {
  int64_t place = std::upper_bound(all.ends, all.ends + all.count, begin) - all.ends;
  for (int64_t piece = begin; piece < end; ++piece) {
    while (piece >= all.ends[place]) ++place;
    const int64_t from = (piece - (place ? all.ends[place - 1] : 0)) * kAdamPiece;
    body(all.jobs[place], piece, from, std::min(from + kAdamPiece, all.jobs[place].count));
  }
}

void adam_pieces(const void* argument, int64_t begin, int64_t end) {
  const auto& all = *static_cast<const Pieces<AdamJob>*>(argument);
  each_piece(all, begin, end, [](const AdamJob& job, int64_t, int64_t from, int64_t to) {
    train_level().adam(job, from, to);
  });
}

void squares_pieces(const void* argument, int64_t begin, int64_t end) {
  const auto& all = *static_cast<const Pieces<SquaresJob>*>(argument);
  each_piece(all, begin, end, [&](const SquaresJob& job, int64_t piece, int64_t from, int64_t to) {
    all.sums[piece] = train_level().squares(job, from, to);
  });
}

int64_t blocks_of(int64_t rows) { return (rows + kRowBlock - 1) / kRowBlock; }

}  // namespace
}  // namespace yanmo

using namespace yanmo;

// The address of GOMP_parallel, or null for threads of our own (pool.h).
YANMO_EXPORT void yanmo_train_team(void* address) { team.store(reinterpret_cast<Team>(address)); }

// ends: room for `count` numbers.
YANMO_EXPORT void yanmo_train_adam(const AdamJob* jobs, int64_t count, int64_t* ends, int threads) {
  for (int64_t i = 0; i < count; ++i) ends[i] = (i ? ends[i - 1] : 0) + pieces_of(jobs[i].count);
  const Pieces<AdamJob> all{jobs, count, ends, nullptr};
  if (count) spread(threads, ends[count - 1], 4, adam_pieces, &all);
}

// sums: room for a number of each piece of kAdamPiece; their sum is taken in their order.
YANMO_EXPORT double yanmo_train_squares(const SquaresJob* jobs, int64_t count, int64_t* ends, double* sums,
                                        int threads) {
  for (int64_t i = 0; i < count; ++i) ends[i] = (i ? ends[i - 1] : 0) + pieces_of(jobs[i].count);
  const Pieces<SquaresJob> all{jobs, count, ends, sums};
  if (!count) return 0.0;
  spread(threads, ends[count - 1], 4, squares_pieces, &all);
  double total = 0.0;
  for (int64_t i = 0; i < ends[count - 1]; ++i) total += sums[i];
  return total;
}

YANMO_EXPORT void yanmo_train_join(const JoinJob* job, int threads) {
  spread(threads, blocks_of(job->rows), 1, train_level().join, job);
}

YANMO_EXPORT void yanmo_train_join_back(const JoinBackJob* job, int threads) {
  spread(threads, blocks_of(job->rows), 1, train_level().join_back, job);
}

YANMO_EXPORT void yanmo_train_curve(const CurveJob* job, int threads) {
  spread(threads, blocks_of(job->rows), 1, train_level().curve, job);
}

YANMO_EXPORT void yanmo_train_weigh(const WeighJob* job, int threads) {
  spread(threads, job->rows * job->heads, 1, train_level().weigh, job);
}

YANMO_EXPORT void yanmo_train_weigh_back(const WeighBackJob* job, int threads) {
  spread(threads, job->rows * job->heads, 1, train_level().weigh_back, job);
}

YANMO_EXPORT void yanmo_train_turn(const TurnJob* job, int threads) {
  spread(threads, (job->width + kTurned - 1) / kTurned, 1, train_level().turn, job);
}

// Whether yanmo_train_product can be called: the level is "amx", and the processor's tiles take bfloat16.
YANMO_EXPORT int yanmo_train_tiles() {
#if defined(YANMO_TILES)
  static const bool found = amx_bfloat16();
  return found && std::strcmp(yanmo_level(), "amx") == 0;
#else
  return 0;
#endif
}

// 0, or 1 where there is no memory.
YANMO_EXPORT int yanmo_train_product(const ProductJob* given, int threads) {
#if defined(YANMO_TILES)
  constexpr int64_t kMost = 4096;  // the depth up to which the columns of a task fit into the cache
  std::atomic<bool> failed{false};
  ProductJob job = *given;
  job.failed = &failed;
  job.strip = job.depth <= kMost ? kStrip : kStrip / 4;
  const int64_t strips = (job.columns + job.strip - 1) / job.strip;
  const int64_t wanted = threads > 1 ? (2 * threads + strips - 1) / strips : 1;
  job.part = ((job.rows + wanted - 1) / wanted + 31) / 32 * 32;
  spread(threads, strips * ((job.rows + job.part - 1) / job.part), 1, amx_product, &job);
  return failed.load() ? 1 : 0;
#else
  (void)given, (void)threads;
  return 1;
#endif
}

// 0, or 1 where there is no memory.
YANMO_EXPORT int yanmo_train_heads(const HeadsJob* given, int threads) {
#if defined(YANMO_TILES)
  std::atomic<bool> failed{false};
  HeadsJob job = *given;
  job.one.failed = &failed;
  job.one.strip = kStrip;
  spread(threads, job.count, 4, amx_heads, &job);
  return failed.load() ? 1 : 0;
#else
  (void)given, (void)threads;
  return 1;
#endif
}
#endif
