// A few queries over a cache. Included in the file of each level, which gives the words for 16 lanes.
//
// A task is one new token of one row and one key head: `groups` query heads that see the same columns. Scores, softmax
// and the sum over the values are three passes over the columns first … last; no other column is read.

constexpr int kTogether = 4;  // query heads that share a pass over the values, and parts of a value that are held

// The scores of up to 16 columns, which are `count`.
template <typename T>
YANMO_INLINE Floats scores_of(const float* query, const T* key, int64_t step, int64_t width, int64_t count) {
  Floats parts[kLanes];
  YANMO_UNROLL
  for (int j = 0; j < kLanes; ++j) parts[j] = zeros();
  if (count == kLanes) {
    for (int64_t d = 0; d < width; d += kLanes) {
      const Floats q = load(query + d);
      YANMO_UNROLL
      for (int j = 0; j < kLanes; ++j) parts[j] = fma(q, load_part(key + j * step + d, width - d), parts[j]);
    }
  } else {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t d = 0; d < width; d += kLanes) {
        parts[j] = fma(load(query + d), load_part(key + j * step + d, width - d), parts[j]);
      }
    }
  }
  return sums_of(parts);
}

// Scores → weights, in place; returns their sum, infinity where no column has a score above -infinity. `count` is filled
// up to 16 with what weighs nothing.
YANMO_INLINE float weigh(float* scores, int64_t count) {
  const float lowest = -std::numeric_limits<float>::infinity();
  for (int64_t i = count; i % kLanes != 0; ++i) scores[i] = lowest;
  Floats highest = all(lowest);
  for (int64_t i = 0; i < count; i += kLanes) highest = most(highest, load(scores + i));
  const float peak = most_of(highest);  // a NaN may be lost here, and makes the sum NaN
  if (peak == lowest) return std::numeric_limits<float>::infinity();
  const Floats shift = all(-peak);
  Floats sum = zeros();
  for (int64_t i = 0; i < count; i += kLanes) {
    const Floats weight = exponential(add(load(scores + i), shift));
    store(scores + i, weight);
    sum = add(sum, weight);
  }
  return sum_of(sum);
}

// out[g][0 … 64) += weight[g][s] · value[s], over the columns.
template <typename T, int G>
YANMO_INLINE void mix(const float* const* weights, const T* value, int64_t step, int64_t columns, int64_t width,
                      Floats (*mixed)[kTogether]) {
  YANMO_UNROLL
  for (int g = 0; g < G; ++g) {
    YANMO_UNROLL
    for (int part = 0; part < kTogether; ++part) mixed[g][part] = zeros();
  }
  if (width >= kTogether * kLanes) {
    for (int64_t s = 0; s < columns; ++s, value += step) {
      YANMO_UNROLL
      for (int part = 0; part < kTogether; ++part) {
        const Floats v = load_part(value + part * kLanes, kLanes);
        YANMO_UNROLL
        for (int g = 0; g < G; ++g) mixed[g][part] = fma(all(weights[g][s]), v, mixed[g][part]);
      }
    }
    return;
  }
  for (int64_t s = 0; s < columns; ++s, value += step) {
    for (int part = 0; part * kLanes < width; ++part) {
      const Floats v = load_part(value + part * kLanes, width - part * kLanes);
      YANMO_UNROLL
      for (int g = 0; g < G; ++g) mixed[g][part] = fma(all(weights[g][s]), v, mixed[g][part]);
    }
  }
}

YANMO_INLINE void store_mixed(const AttendJob& job, int64_t at, int64_t width, const Floats* mixed, float share) {
  for (int part = 0; part < kTogether && part * kLanes < width; ++part) {
    const Floats y = mul(mixed[part], all(share));
    const int64_t from = at + part * kLanes, count = width - part * kLanes;
    if (job.type == kBfloat16) store_part(static_cast<uint16_t*>(job.out) + from, y, count);
    else store_part(static_cast<float*>(job.out) + from, y, count);
  }
}

template <typename T, int G>
YANMO_INLINE void attend_heads(const AttendJob& job, int64_t row, int64_t kv_head, int64_t token, int64_t head) {
  const int64_t last = job.last[row * job.tokens + token];
  const int64_t first = job.window > 0 && last - job.window + 1 > 0 ? last - job.window + 1 : 0;
  const int64_t columns = last - first + 1 > 0 ? last - first + 1 : 0, width = job.head_width;
  const int64_t padded = (width + kLanes - 1) / kLanes * kLanes, room = (columns + kLanes - 1) / kLanes * kLanes;
  const T* key = static_cast<const T*>(job.key) + row * job.key_row + kv_head * job.key_head + first * job.key_column;
  const T* value =
      static_cast<const T*>(job.value) + row * job.value_row + kv_head * job.value_head + first * job.value_column;
  const int64_t scales = row * job.scale_row + kv_head * job.scale_head + first;
  float* const memory = reinterpret_cast<float*>(scratch(static_cast<size_t>(G * room + padded) * sizeof(float)));
  if (memory == nullptr) return job.failed->store(true);
  float* query = memory + G * room;
  const float* weights[G];
  float shares[G];
  for (int g = 0; g < G; ++g) {
    const int64_t from = row * job.query_row + (head + g) * job.query_head + token * job.query_token;
    for (int64_t d = 0; d < padded; d += kLanes) {
      const int64_t count = width - d;
      const Floats q = job.type == kBfloat16 ? load_part(static_cast<const uint16_t*>(job.query) + from + d, count)
                                             : load_part(static_cast<const float*>(job.query) + from + d, count);
      store(query + d, mul(q, all(job.scale)));
    }
    float* scores = memory + g * room;
    for (int64_t s = 0; s < columns; s += kLanes) {
      const int64_t count = columns - s < kLanes ? columns - s : kLanes;
      Floats score = scores_of(query, key + s * job.key_column, job.key_column, width, count);
      if (job.key_scale != nullptr) score = mul(score, load_part(job.key_scale + scales + s, count));
      store(scores + s, score);
    }
    shares[g] = columns > 0 ? 1.0f / weigh(scores, columns) : 0.0f;
    if (job.value_scale != nullptr) {
      for (int64_t s = 0; s < columns; s += kLanes) {
        store(scores + s, mul(load(scores + s), load_part(job.value_scale + scales + s, columns - s)));
      }
    }
    weights[g] = scores;
  }
  for (int64_t d = 0; d < width; d += kTogether * kLanes) {
    Floats mixed[G][kTogether];
    mix<T, G>(weights, value + d, job.value_column, columns, width - d, mixed);
    for (int g = 0; g < G; ++g) {
      const int64_t to = row * job.out_row + token * job.out_token + (head + g) * job.out_head + d;
      store_mixed(job, to, width - d, mixed[g], shares[g]);
    }
  }
}

template <typename T>
void attend_task(const AttendJob& job, int64_t task) {
  const int64_t token = task % job.tokens, kv_head = task / job.tokens % job.kv_heads;
  const int64_t row = task / job.tokens / job.kv_heads;
  for (int64_t g = 0; g < job.groups; g += kTogether) {
    const int64_t head = kv_head * job.groups + g;
    switch (job.groups - g) {
      case 1: attend_heads<T, 1>(job, row, kv_head, token, head); break;
      case 2: attend_heads<T, 2>(job, row, kv_head, token, head); break;
      case 3: attend_heads<T, 3>(job, row, kv_head, token, head); break;
      default: attend_heads<T, 4>(job, row, kv_head, token, head);
    }
  }
}

// Tasks are (row, key head, token).
void attend(const void* argument, int64_t begin, int64_t end) {
  const AttendJob& job = *static_cast<const AttendJob*>(argument);
  for (int64_t task = begin; task < end; ++task) {
    if (job.cached == kInt8) attend_task<int8_t>(job, task);
    else if (job.cached == kBfloat16) attend_task<uint16_t>(job, task);
    else attend_task<float>(job, task);
  }
}
