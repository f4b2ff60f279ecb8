// Bodies of train.h, in the vectors that GCC and Clang know for every processor. Included in the file of each level,
// inside namespace yanmo and an anonymous namespace; YANMO_BYTES is the width of a level's registers.

constexpr int kWide = YANMO_BYTES / 4;  // divides 16, and widths and numbers of keys are multiples of 16
constexpr int64_t kMostKeys = 1024;

using Floats = float __attribute__((vector_size(YANMO_BYTES)));
using Ints = int32_t __attribute__((vector_size(YANMO_BYTES)));
using Words = uint32_t __attribute__((vector_size(YANMO_BYTES)));
using Lows = uint16_t __attribute__((vector_size(YANMO_BYTES / 2)));  // bfloat16

YANMO_INLINE Floats all(float x) { return Floats{} + x; }

YANMO_INLINE Floats load(const float* p) {
  Floats x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}

YANMO_INLINE Floats load(const uint16_t* p) {
  Lows x;
  std::memcpy(&x, p, sizeof(x));
  return (Floats)(__builtin_convertvector(x, Words) << 16);
}

YANMO_INLINE void store(float* p, Floats x) { std::memcpy(p, &x, sizeof(x)); }

// To the nearest bfloat16, ties to even; a NaN stays one. The instruction takes what is below 1.2e-38 for 0.
#if defined(YANMO_BFLOAT16)
YANMO_INLINE Lows low(Floats x) { return (Lows)_mm512_cvtneps_pbh((__m512)x); }

YANMO_INLINE Floats as_stored(Floats x) { return (Floats)(__builtin_convertvector(low(x), Words) << 16); }
#else
YANMO_INLINE Words rounded(Floats x) {
  const Words bits = (Words)x;
  const Words even = bits + 0x7fff + (bits >> 16 & 1);
  return (x == x ? even : bits | 0x400000) >> 16;
}

YANMO_INLINE Lows low(Floats x) { return __builtin_convertvector(rounded(x), Lows); }

YANMO_INLINE Floats as_stored(Floats x) { return (Floats)(rounded(x) << 16); }
#endif

YANMO_INLINE void store(uint16_t* p, Floats x) {
  const Lows numbers = low(x);
  std::memcpy(p, &numbers, sizeof(numbers));
}

// Compilers make one root at a time of a loop over a vector.
YANMO_INLINE Floats root_of(Floats x) {
#if YANMO_BYTES == 64
  return (Floats)_mm512_sqrt_ps((__m512)x);
#elif YANMO_BYTES == 32
  return (Floats)_mm256_sqrt_ps((__m256)x);
#else
  for (int k = 0; k < kWide; ++k) x[k] = __builtin_sqrtf(x[k]);
  return x;
#endif
}

YANMO_INLINE float sum_of(Floats x) {
  float y = 0.0f;
  for (int k = 0; k < kWide; ++k) y += x[k];
  return y;
}

YANMO_INLINE Floats most(Floats x, Floats y) { return x > y ? x : y; }

YANMO_INLINE float most_of(Floats x) {
  float y = x[0];
  for (int k = 1; k < kWide; ++k) y = x[k] > y ? x[k] : y;
  return y;
}

YANMO_INLINE Ints places() {
  Ints x;
  for (int k = 0; k < kWide; ++k) x[k] = k;
  return x;
}

// --- random bits: a key of the seed and the row (SplitMix64, Steele et al. 2014), and from it a hash of each place
// (Wellons' lowbias32), so that backward makes the same again

YANMO_INLINE uint32_t key_of(uint64_t seed, int64_t row) {
  uint64_t z = seed + 0x9e3779b97f4a7c15u * (static_cast<uint64_t>(row) + 1);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>((z ^ z >> 31) >> 32);
}

// The factors on the numbers from a place on: 0 where one is dropped.
YANMO_INLINE Floats factors_at(uint32_t key, int64_t place, int32_t limit, float factor) {
  Words z = ((Words)places() + static_cast<uint32_t>(place)) * 0x9e3779b9u + key;
  z = (z ^ z >> 16) * 0x7feb352du;
  z = (z ^ z >> 15) * 0x846ca68bu;
  z ^= z >> 16;
  return (Ints)(z >> 17) < limit ? Floats{} : all(factor);
}

// --- the optimizer

// Let the memory bring what is read soon; processors do not look beyond a page by themselves.
YANMO_INLINE void ask(const void* place) {
#if YANMO_BYTES >= 32
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(place) + 2048));
#else
  (void)place;
#endif
}

template <typename T>
YANMO_INLINE void adam_of(const AdamJob& job, const T* gradient, int64_t begin, int64_t end) {
  const float first = 1.0f - job.beta1, second = 1.0f - job.beta2;
  int64_t i = begin;
  for (; i + kWide <= end; i += kWide) {
    ask(job.weight + i);
    ask(job.first + i);
    ask(job.second + i);
    const Floats g = gradient == nullptr ? Floats{} : load(gradient + i) * job.scale;
    const Floats m = load(job.first + i), v = load(job.second + i);
    const Floats mean = m + first * (g - m), square = job.beta2 * v + second * g * g;
    store(job.first + i, mean);
    store(job.second + i, square);
    const Floats change = job.step * mean / (root_of(square) * job.root + job.eps);
    const Floats weight = load(job.weight + i) * job.keep - change;
    store(job.weight + i, weight);
    if (job.low != nullptr) store(job.low + i, weight);
  }
  if (i == end) return;
  float rest[3][kWide] = {};  // of weight and moments; what is left is done in whole vectors, too
  T gradients[kWide] = {};
  uint16_t lows[kWide];
  const size_t left = static_cast<size_t>(end - i);
  std::memcpy(rest[0], job.weight + i, left * 4);
  std::memcpy(rest[1], job.first + i, left * 4);
  std::memcpy(rest[2], job.second + i, left * 4);
  if (gradient != nullptr) std::memcpy(gradients, gradient + i, left * sizeof(T));
  AdamJob small = job;
  small.weight = rest[0];
  small.first = rest[1];
  small.second = rest[2];
  small.low = job.low == nullptr ? nullptr : lows;
  adam_of(small, gradients, 0, kWide);
  std::memcpy(job.weight + i, rest[0], left * 4);
  std::memcpy(job.first + i, rest[1], left * 4);
  std::memcpy(job.second + i, rest[2], left * 4);
  if (job.low != nullptr) std::memcpy(job.low + i, lows, left * 2);
}

void adam(const AdamJob& job, int64_t begin, int64_t end) {
  if (job.wide) adam_of(job, static_cast<const float*>(job.gradient), begin, end);
  else adam_of(job, static_cast<const uint16_t*>(job.gradient), begin, end);
}

template <typename T>
YANMO_INLINE double squares_of(const T* x, int64_t begin, int64_t end) {
  Floats sums[2] = {};
  int64_t i = begin;
  for (; i + 2 * kWide <= end; i += 2 * kWide) {
    ask(x + i);
    const Floats a = load(x + i), b = load(x + i + kWide);
    sums[0] += a * a;
    sums[1] += b * b;
  }
  T rest[2 * kWide] = {};
  std::memcpy(rest, x + i, static_cast<size_t>(end - i) * sizeof(T));
  const Floats a = load(rest), b = load(rest + kWide);
  sums[0] += a * a;
  sums[1] += b * b;
  double total = 0.0;
  for (int k = 0; k < kWide; ++k) total += static_cast<double>(sums[0][k]) + sums[1][k];
  return total;
}

double squares(const SquaresJob& job, int64_t begin, int64_t end) {
  if (job.wide) return squares_of(static_cast<const float*>(job.numbers), begin, end);
  return squares_of(static_cast<const uint16_t*>(job.numbers), begin, end);
}

// --- residual, dropout and LayerNorm

void join(const void* argument, int64_t begin, int64_t end) {
  const JoinJob& job = *static_cast<const JoinJob*>(argument);
  const int64_t width = job.width, last = end * kRowBlock < job.rows ? end * kRowBlock : job.rows;
  const float share = 1.0f / static_cast<float>(width);
  for (int64_t row = begin * kRowBlock; row < last; ++row) {
    const uint16_t* residual = job.residual + row * width;
    uint16_t* branch = job.branch + row * width;
    uint16_t* out = job.out + row * width;
    const uint32_t key = key_of(job.seed, row);
    Floats sums{}, apart{};
    for (int64_t i = 0; i < width; i += kWide) {
      Floats x = load(branch + i);
      if (job.limit) x *= factors_at(key, i, job.limit, job.factor);
      x = as_stored(load(residual + i) + x);
      store(branch + i, x);
      sums += x;
    }
    const float mean = sum_of(sums) * share;
    for (int64_t i = 0; i < width; i += kWide) {
      const Floats x = load(branch + i) - mean;
      apart += x * x;
    }
    const float scale = 1.0f / __builtin_sqrtf(sum_of(apart) * share + job.eps);
    job.stats[2 * row] = mean;
    job.stats[2 * row + 1] = scale;
    for (int64_t i = 0; i < width; i += kWide) {
      store(out + i, (load(branch + i) - mean) * scale * load(job.weight + i) + load(job.bias + i));
    }
  }
}

YANMO_INLINE void add_to(float* sums, Floats x) { store(sums, load(sums) + x); }

void join_back(const void* argument, int64_t begin, int64_t end) {
  const JoinBackJob& job = *static_cast<const JoinBackJob*>(argument);
  const int64_t width = job.width;
  const float share = 1.0f / static_cast<float>(width);
  for (int64_t block = begin; block < end; ++block) {
    float* weights = job.columns + block * 3 * width;
    float* biases = weights + width;
    float* branches = biases + width;
    std::memset(weights, 0, static_cast<size_t>(3 * width) * 4);
    const int64_t last = (block + 1) * kRowBlock < job.rows ? (block + 1) * kRowBlock : job.rows;
    for (int64_t row = block * kRowBlock; row < last; ++row) {
      const uint16_t* upstream = job.upstream + row * width;
      const uint16_t* sum = job.sum + row * width;
      const float mean = job.stats[2 * row], scale = job.stats[2 * row + 1];
      const uint32_t key = key_of(job.seed, row);
      Floats plain{}, along{};
      for (int64_t i = 0; i < width; i += kWide) {
        const Floats g = load(upstream + i), x = (load(sum + i) - mean) * scale, weighted = g * load(job.weight + i);
        add_to(weights + i, g * x);
        add_to(biases + i, g);
        plain += weighted;
        along += weighted * x;
      }
      const float first = sum_of(plain) * share, second = sum_of(along) * share;
      for (int64_t i = 0; i < width; i += kWide) {
        const Floats x = (load(sum + i) - mean) * scale, g = load(upstream + i) * load(job.weight + i);
        const Floats change = as_stored((g - first - x * second) * scale);
        store(job.residual + row * width + i, change);
        Floats through = change;
        if (job.limit) {
          through *= factors_at(key, i, job.limit, job.factor);
          store(job.branch + row * width + i, through);
        }
        add_to(branches + i, through);
      }
    }
  }
}

#include "curve.inl"

// --- weights of attention; tasks are (row, head)

// Of one query: the keys that it sees, in whole vectors; the others' numbers are set to 0.
struct Seen {
  int64_t first, last, begin, end;

  YANMO_INLINE Seen(const int32_t* range, int64_t keys) : first(range[0]), last(range[1]) {
    begin = first / kWide * kWide;
    end = (last + kWide - 1) / kWide * kWide;
    if (end > keys) end = keys;
  }

  YANMO_INLINE Floats only(Floats x, int64_t place, float other) const {
    const Ints at = places() + static_cast<int32_t>(place);
    const Ints inside = (at >= static_cast<int32_t>(first)) & (at < static_cast<int32_t>(last));
    return inside ? x : all(other);
  }

  YANMO_INLINE void clear(uint16_t* line, int64_t keys) const {
    std::memset(line, 0, static_cast<size_t>(begin) * 2);
    std::memset(line + end, 0, static_cast<size_t>(keys - end) * 2);
  }
};

void weigh(const void* argument, int64_t begin, int64_t end) {
  const WeighJob& job = *static_cast<const WeighJob*>(argument);
  float room[kMostKeys];
  for (int64_t task = begin; task < end; ++task) {
    const int32_t* ranges = job.range + task / job.heads * job.columns * 2;
    for (int64_t column = 0; column < job.columns; ++column) {
      const int64_t line = task * job.columns + column;
      const Seen seen(ranges + 2 * column, job.keys);
      uint16_t* scores = job.scores + line * job.keys;
      uint16_t* dropped = job.dropped + line * job.keys;
      Floats highest = all(-3.0e38f), sums{};
      for (int64_t i = seen.begin; i < seen.end; i += kWide) {
        const Floats score = seen.only(load(scores + i) * job.scale, i, -3.0e38f);
        store(room + i, score);
        highest = most(score, highest);
      }
      const float top = most_of(highest);
      for (int64_t i = seen.begin; i < seen.end; i += kWide) {
        const Floats weight = seen.only(power(load(room + i) - top), i, 0.0f);
        store(room + i, weight);
        sums += weight;
      }
      const float share = 1.0f / sum_of(sums);
      const uint32_t key = key_of(job.seed, line);
      seen.clear(scores, job.keys);
      if (job.limit) seen.clear(dropped, job.keys);
      for (int64_t i = seen.begin; i < seen.end; i += kWide) {
        const Floats weight = as_stored(load(room + i) * share);
        store(scores + i, weight);
        if (job.limit) store(dropped + i, weight * factors_at(key, i, job.limit, job.factor));
      }
    }
  }
}

void weigh_back(const void* argument, int64_t begin, int64_t end) {
  const WeighBackJob& job = *static_cast<const WeighBackJob*>(argument);
  float room[kMostKeys];
  for (int64_t task = begin; task < end; ++task) {
    const int32_t* ranges = job.range + task / job.heads * job.columns * 2;
    for (int64_t column = 0; column < job.columns; ++column) {
      const int64_t line = task * job.columns + column;
      const Seen seen(ranges + 2 * column, job.keys);
      const uint16_t* weights = job.weights + line * job.keys;
      uint16_t* upstream = job.upstream + line * job.keys;
      uint16_t* dropped = job.dropped + line * job.keys;
      const uint32_t key = key_of(job.seed, line);
      Floats sums{};
      seen.clear(upstream, job.keys);
      if (job.limit) seen.clear(dropped, job.keys);
      for (int64_t i = seen.begin; i < seen.end; i += kWide) {
        const Floats weight = load(weights + i);  // 0 where nothing is seen
        Floats g = load(upstream + i);
        if (job.limit) {
          const Floats kept = factors_at(key, i, job.limit, job.factor);
          g *= kept;
          store(dropped + i, weight * kept);
        }
        store(room + i, g);
        sums += g * weight;
      }
      const float sum = sum_of(sums);
      for (int64_t i = seen.begin; i < seen.end; i += kWide) {
        store(upstream + i, (load(room + i) - sum) * load(weights + i) * job.scale);
      }
    }
  }
}

// --- rows become columns, in blocks of 8 x 8; tasks are 32 columns

#include "turn.inl"

void turn(const void* argument, int64_t begin, int64_t end) {
  const TurnJob& job = *static_cast<const TurnJob*>(argument);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task * kTurned, last = first + kTurned < job.width ? first + kTurned : job.width;
    int64_t row = 0;
    for (; row + 8 <= job.rows; row += 8) {
      for (int64_t i = first; i < last; i += 8) {
        turn_block(job.x + row * job.width + i, job.width, job.out + i * job.rows + row, job.rows);
      }
    }
    for (; row < job.rows; ++row) {
      for (int64_t i = first; i < last; ++i) job.out[i * job.rows + row] = job.x[row * job.width + i];
    }
  }
}

#define YANMO_TRAIN {adam, squares, join, join_back, curve, weigh, weigh_back, turn}
