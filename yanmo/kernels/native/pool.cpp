#include "pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "common.h"

#if defined(YANMO_X86)
#include <immintrin.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace yanmo {
namespace {

constexpr int kMostThreads = 256;
constexpr auto kSpin = std::chrono::microseconds(100);

void pause() {
#if defined(YANMO_X86)
  _mm_pause();
#elif defined(YANMO_ARM) && !defined(_MSC_VER)
  asm volatile("yield");
#endif
}

// The tasks that are left of one thread's run: begin in the upper half, end in the lower.
struct alignas(64) Run {
  std::atomic<uint64_t> left{0};

  void set(uint64_t begin, uint64_t end) { left.store(begin << 32 | end, std::memory_order_relaxed); }

  // Take up to `grain` tasks, the owner from the front, others from the back.
  bool take(uint64_t grain, bool owner, int64_t* begin, int64_t* end) {
    uint64_t seen = left.load(std::memory_order_relaxed);
    for (;;) {
      const uint64_t first = seen >> 32, last = seen & 0xffffffff;
      if (first >= last) return false;
      const uint64_t count = last - first < grain ? last - first : grain;
      const uint64_t rest = owner ? (first + count) << 32 | last : first << 32 | (last - count);
      if (left.compare_exchange_weak(seen, rest, std::memory_order_relaxed)) {
        *begin = static_cast<int64_t>(owner ? first : last - count);
        *end = *begin + static_cast<int64_t>(count);
        return true;
      }
    }
  }
};

// The gate of a job: its number in the upper half, whether one may still come in, and how many are inside.
constexpr uint64_t kOpen = uint64_t{1} << 31;
constexpr uint64_t kCount = 0xffff;

struct Pool {
  std::atomic<bool> taken{false};
  std::atomic<uint64_t> gate{0};
  std::atomic<int> sleeping{0};
  std::mutex mutex;
  std::condition_variable wake;
  int workers = 0;
  // the job, written while the gate is closed and nobody is inside
  Body body = nullptr;
  const void* job = nullptr;
  int threads = 0;
  uint64_t grain = 1;
  Run runs[kMostThreads];

  void work(int place) {
    int64_t begin, end;
    for (int turn = 0; turn < threads; ++turn) {
      Run& run = runs[(place + turn) % threads];
      while (run.take(grain, turn == 0, &begin, &end)) body(job, begin, end);
    }
  }

  void live(int place) {
    uint64_t done = 0;  // the number of the last job that this thread saw
    for (;;) {
      uint64_t seen = wait(done);
      done = seen >> 32;
      while ((seen >> 32) == done && (seen & kOpen)) {
        if (!gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire)) continue;
        if (place < threads) work(place);
        gate.fetch_sub(1, std::memory_order_release);
        break;
      }
    }
  }

  uint64_t wait(uint64_t done) {
    const auto start = std::chrono::steady_clock::now();
    for (;;) {
      for (int i = 0; i < 64; ++i) {
        const uint64_t seen = gate.load(std::memory_order_relaxed);
        if (seen >> 32 != done) return seen;
        pause();
      }
      if (std::chrono::steady_clock::now() - start > kSpin) break;
    }
    std::unique_lock<std::mutex> lock(mutex);
    sleeping.fetch_add(1);
    uint64_t seen = gate.load();
    while (seen >> 32 == done) {
      wake.wait(lock);
      seen = gate.load();
    }
    sleeping.fetch_sub(1);
    return seen;
  }

  void start(int count) {
    try {
      for (; workers < count - 1; ++workers) std::thread(&Pool::live, this, workers + 1).detach();
    } catch (const std::system_error&) {  // the system grants no more threads; those that exist do the work
    }
  }

  void run(int count, int64_t tasks, int64_t size, Body function, const void* argument) {
    start(count);
    body = function;
    job = argument;
    threads = count;
    grain = static_cast<uint64_t>(size);
    for (int i = 0; i < count; ++i) runs[i].set(tasks * i / count, tasks * (i + 1) / count);
    const uint64_t number = (gate.load(std::memory_order_relaxed) >> 32) + 1;
    gate.store(number << 32 | kOpen);  // sequentially consistent, as is `sleeping`: one of the two sees the other
    if (sleeping.load() > 0) {
      { std::lock_guard<std::mutex> lock(mutex); }
      wake.notify_all();
    }
    work(0);
    gate.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int turns = 0; gate.load(std::memory_order_acquire) & kCount; ++turns) {
      if (turns < 4096) pause();
      else std::this_thread::yield();
    }
  }
};

std::atomic<Pool*> the_pool{nullptr};

// Never freed: its threads end with the process. After a fork the child has none of them and starts with a new pool.
Pool* pool() {
  Pool* found = the_pool.load(std::memory_order_acquire);
  if (found != nullptr) return found;
#if !defined(_WIN32)
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); }); });
#endif
  Pool* made = new Pool;
  if (the_pool.compare_exchange_strong(found, made)) return made;
  delete made;
  return found;
}

}  // namespace

void parallel(int threads, int64_t tasks, int64_t grain, Body body, const void* job) {
  if (tasks <= 0) return;
  if (grain < 1) grain = 1;
  if (threads > kMostThreads) threads = kMostThreads;
  if (threads > (tasks + grain - 1) / grain) threads = static_cast<int>((tasks + grain - 1) / grain);
  Pool* shared = threads > 1 ? pool() : nullptr;
  if (shared == nullptr || shared->taken.exchange(true, std::memory_order_acquire)) {
    body(job, 0, tasks);
    return;
  }
  shared->run(threads, tasks, grain, body, job);
  shared->taken.store(false, std::memory_order_release);
}

}  // namespace yanmo
