// A few queries over a cache. Included in the file of each level, which gives the words for 16 lanes.
//
// A task is one new token of one row and one key head: the query heads that see the same columns. The columns first …
// last are read once, a block after the other, and no other column is: the scores of a block become weights below the
// largest score so far, and what was mixed before is brought to it (Milakov and Gimelshein 2018). So a block of keys
// and values stays near while all heads pass, and the memory that a task needs does not grow with the columns.

constexpr int kTogether = 4;        // query heads that share a pass
constexpr int64_t kColumns = 256;   // columns of a block; a multiple of 16

// A task's columns and its memory.
template <typename T>
struct Span {
  const T* key;
  const T* value;
  int64_t key_step, value_step, columns, width;
  const float* key_scale;  // of the columns, `scale_step` apart, or null
  const float* value_scale;
  int64_t scale_step;
  const int32_t* places;  // where each column stands, or null
};

YANMO_INLINE int64_t stands_at(const int32_t* places, int64_t column) { return places == nullptr ? column : places[column]; }

// What is known of a query head after some blocks.
struct Head {
  float peak;  // the largest score
  float sum;   // of the weights
};

// scores[g][s] of `count` columns from `first` on, at most kColumns.
template <typename T, int G>
YANMO_INLINE void scores_of(const Span<T>& span, int64_t first, int64_t count, const float* query, int64_t padded,
                            float* scores) {
  const int64_t width = span.width;
  for (int64_t s = 0; s < count; s += kLanes) {
    Floats parts[G][kLanes];
    const int64_t some = count - s < kLanes ? count - s : kLanes;
    for (int64_t j = 0; j < some; ++j) {
      const T* key = span.key + stands_at(span.places, first + s + j) * span.key_step;
      Floats sums[G];
      YANMO_UNROLL
      for (int g = 0; g < G; ++g) sums[g] = zeros();
      int64_t d = 0;
      for (; d + kLanes <= width; d += kLanes) {
        const Floats k = load(key + d);
        YANMO_UNROLL
        for (int g = 0; g < G; ++g) sums[g] = fma(load(query + g * padded + d), k, sums[g]);
      }
      if (d < width) {
        const Floats k = load_part(key + d, width - d);
        YANMO_UNROLL
        for (int g = 0; g < G; ++g) sums[g] = fma(load(query + g * padded + d), k, sums[g]);
      }
      YANMO_UNROLL
      for (int g = 0; g < G; ++g) parts[g][j] = sums[g];
    }
    for (int g = 0; g < G; ++g) {
      for (int64_t j = some; j < kLanes; ++j) parts[g][j] = zeros();
      store(scores + g * kColumns + s, sums_of(parts[g]));
    }
  }
}

// The scores of a block → weights, in place, filled up to 16 with what weighs nothing; returns by what all that was
// mixed before is multiplied.
YANMO_INLINE float weigh(float* scores, int64_t count, Head* head) {
  const float lowest = -std::numeric_limits<float>::infinity();
  for (int64_t i = count; i % kLanes != 0; ++i) scores[i] = lowest;
  Floats highest = all(lowest);
  for (int64_t i = 0; i < count; i += kLanes) highest = most(highest, load(scores + i));
  const float before = head->peak, found = most_of(highest);  // a NaN may be lost here, and makes the sum NaN
  head->peak = before > found ? before : found;
  const Floats shift = all(head->peak == lowest ? 0.0f : -head->peak);
  Floats sum = zeros();
  for (int64_t i = 0; i < count; i += kLanes) {
    const Floats weight = exponential(add(load(scores + i), shift));
    store(scores + i, weight);
    sum = add(sum, weight);
  }
  float factor = 1.0f;
  if (head->peak != before) {
    float lanes[kLanes];
    store(lanes, exponential(add(all(before), shift)));
    factor = lanes[0];
  }
  head->sum = head->sum * factor + sum_of(sum);
  return factor;
}

// mixed[g][d … d + 16 P) += Σ weights[g][s] · value[first + s][d …]; of the last 16 numbers there are `last`.
template <typename T, int G, int P>
YANMO_INLINE void mix(const Span<T>& span, int64_t first, int64_t count, int64_t d, int64_t last, const float* weights,
                      float* mixed, int64_t padded) {
  Floats sums[G][P];
  YANMO_UNROLL
  for (int g = 0; g < G; ++g) {
    YANMO_UNROLL
    for (int part = 0; part < P; ++part) sums[g][part] = load(mixed + g * padded + d + part * kLanes);
  }
  for (int64_t s = 0; s < count; ++s) {
    const T* value = span.value + stands_at(span.places, first + s) * span.value_step + d;
    YANMO_UNROLL
    for (int part = 0; part < P; ++part) {
      const Floats v = load_part(value + part * kLanes, part + 1 < P ? kLanes : last);
      YANMO_UNROLL
      for (int g = 0; g < G; ++g) sums[g][part] = fma(all(weights[g * kColumns + s]), v, sums[g][part]);
    }
  }
  YANMO_UNROLL
  for (int g = 0; g < G; ++g) {
    YANMO_UNROLL
    for (int part = 0; part < P; ++part) store(mixed + g * padded + d + part * kLanes, sums[g][part]);
  }
}

// A block for G heads: query and mixed [g][padded], scores [g][kColumns].
template <typename T, int G>
YANMO_INLINE void attend_heads(const Span<T>& span, int64_t first, int64_t count, const float* query, float* scores,
                               float* mixed, int64_t padded, Head* heads) {
  scores_of<T, G>(span, first, count, query, padded, scores);
  float scale[kColumns];
  if (span.key_scale != nullptr) {
    for (int64_t s = 0; s < count; ++s) scale[s] = span.key_scale[stands_at(span.places, first + s) * span.scale_step];
  }
  for (int g = 0; g < G; ++g) {
    float* own = scores + g * kColumns;
    if (span.key_scale != nullptr) {
      for (int64_t s = 0; s < count; s += kLanes) store(own + s, mul(load(own + s), load_part(scale + s, count - s)));
    }
    const float factor = weigh(own, count, heads + g);
    if (factor != 1.0f) {
      for (int64_t d = 0; d < padded; d += kLanes) store(mixed + g * padded + d, mul(load(mixed + g * padded + d), all(factor)));
    }
  }
  if (span.value_scale != nullptr) {
    for (int64_t s = 0; s < count; ++s) scale[s] = span.value_scale[stands_at(span.places, first + s) * span.scale_step];
    for (int g = 0; g < G; ++g) {
      float* own = scores + g * kColumns;
      for (int64_t s = 0; s < count; s += kLanes) store(own + s, mul(load(own + s), load_part(scale + s, count - s)));
    }
  }
  int64_t d = 0;
  for (; d + kParts * kLanes <= span.width; d += kParts * kLanes) {
    mix<T, G, kParts>(span, first, count, d, kLanes, scores, mixed, padded);
  }
  for (; d < span.width; d += kLanes) mix<T, G, 1>(span, first, count, d, span.width - d, scores, mixed, padded);
}

template <typename T>
YANMO_INLINE Span<T> span_of(const AttendJob& job, int64_t row, int64_t kv_head, int64_t token) {
  const int64_t last = job.last[row * job.tokens + token];
  const int64_t first = job.window > 0 && last - job.window + 1 > 0 ? last - job.window + 1 : 0;
  const int64_t begin = job.places == nullptr ? first : 0;  // a place counts from the row's first column
  const int64_t scales = row * job.scale_row + kv_head * job.scale_head + begin * job.scale_column;
  Span<T> span;
  span.key = static_cast<const T*>(job.key) + row * job.key_row + kv_head * job.key_head + begin * job.key_column;
  span.value = static_cast<const T*>(job.value) + row * job.value_row + kv_head * job.value_head + begin * job.value_column;
  span.places = job.places == nullptr ? nullptr : job.places + row * job.place_row + first;
  span.key_step = job.key_column;
  span.value_step = job.value_column;
  span.columns = last - first + 1 > 0 ? last - first + 1 : 0;
  span.width = job.head_width;
  span.key_scale = job.key_scale == nullptr ? nullptr : job.key_scale + scales;
  span.value_scale = job.value_scale == nullptr ? nullptr : job.value_scale + scales;
  span.scale_step = job.scale_column;
  return span;
}

YANMO_INLINE void load_query(const AttendJob& job, int64_t from, int64_t padded, float* query) {
  for (int64_t d = 0; d < padded; d += kLanes) {
    const int64_t count = job.head_width - d;
    const Floats q = job.type == kBfloat16 ? load_part(static_cast<const uint16_t*>(job.query) + from + d, count)
                                           : load_part(static_cast<const float*>(job.query) + from + d, count);
    store(query + d, mul(q, all(job.scale)));
  }
}

YANMO_INLINE void store_mixed(const AttendJob& job, int64_t to, const float* mixed, float share) {
  for (int64_t d = 0; d < job.head_width; d += kLanes) {
    const Floats y = mul(load(mixed + d), all(share));
    if (job.type == kBfloat16) store_part(static_cast<uint16_t*>(job.out) + to + d, y, job.head_width - d);
    else store_part(static_cast<float*>(job.out) + to + d, y, job.head_width - d);
  }
}

// 0 where nothing is seen, NaN where no score is above -infinity.
YANMO_INLINE float share_of(const Head& head, int64_t columns) {
  if (columns == 0) return 0.0f;
  return head.peak == -std::numeric_limits<float>::infinity() ? kNan : 1.0f / head.sum;
}

template <typename T>
void attend_task(const AttendJob& job, int64_t task) {
  const int64_t token = task % job.tokens, kv_head = task / job.tokens % job.kv_heads;
  const int64_t row = task / job.tokens / job.kv_heads;
  const int64_t padded = (job.head_width + kLanes - 1) / kLanes * kLanes;
  const int64_t own = 2 * padded * static_cast<int64_t>(sizeof(float)) + static_cast<int64_t>(sizeof(Head));
  uint8_t* memory = scratch(static_cast<size_t>(job.groups * own) + kTogether * kColumns * sizeof(float));
  if (memory == nullptr) return job.failed->store(true);
  float* scores = reinterpret_cast<float*>(memory);
  float* query = scores + kTogether * kColumns;
  float* mixed = query + job.groups * padded;
  Head* heads = reinterpret_cast<Head*>(mixed + job.groups * padded);
  for (int64_t g = 0; g < job.groups; ++g) {
    const int64_t head = kv_head * job.groups + g;
    load_query(job, row * job.query_row + head * job.query_head + token * job.query_token, padded, query + g * padded);
    heads[g] = {-std::numeric_limits<float>::infinity(), 0.0f};
  }
  std::memset(mixed, 0, static_cast<size_t>(job.groups * padded) * sizeof(float));
  const Span<T> span = span_of<T>(job, row, kv_head, token);
  for (int64_t first = 0; first < span.columns; first += kColumns) {
    const int64_t count = span.columns - first < kColumns ? span.columns - first : kColumns;
    for (int64_t g = 0; g < job.groups; g += kTogether) {
      const float* q = query + g * padded;
      float* m = mixed + g * padded;
      switch (job.groups - g) {
        case 1: attend_heads<T, 1>(span, first, count, q, scores, m, padded, heads + g); break;
        case 2: attend_heads<T, 2>(span, first, count, q, scores, m, padded, heads + g); break;
        case 3: attend_heads<T, 3>(span, first, count, q, scores, m, padded, heads + g); break;
        default: attend_heads<T, 4>(span, first, count, q, scores, m, padded, heads + g);
      }
    }
  }
  for (int64_t g = 0; g < job.groups; ++g) {
    const int64_t to = row * job.out_row + token * job.out_token + (kv_head * job.groups + g) * job.out_head;
    store_mixed(job, to, mixed + g * padded, share_of(heads[g], span.columns));
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
