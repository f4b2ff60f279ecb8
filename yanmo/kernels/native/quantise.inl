// Input rows → codes. Included in the file of each level, which gives the words for 16 lanes.
//
// All levels do the same float32 operations in the same order, so that their codes are equal, and equal to the twin's.

constexpr int32_t kWide = 32639;  // 127 · 256 + 127: the largest value whose two codes both fit a signed byte

struct Range {
  float low, high;  // of the row and 0
  bool finite;
};

template <typename T>
YANMO_INLINE Range range_of(const T* x, int64_t count) {
  Floats lows = zeros(), highs = zeros(), sums = zeros();
  for (int64_t i = 0; i < count; i += kLanes) {
    const Floats part = load_part(x + i, count - i);
    lows = least(lows, part);  // a NaN may be lost here; it stays, as an infinity does, in the sum of zeros
    highs = most(highs, part);
    sums = fma(part, zeros(), sums);
  }
  return {least_of(lows), most_of(highs), sum_of(sums) == 0.0f};
}

YANMO_INLINE float larger(float a, float b) { return a > b ? a : b; }

// Where the 4 codes of a quad go: in blocks of `lanes` rows, [quad][row][4], or one row after the other.
struct Place {
  int8_t* codes;
  int64_t step;  // bytes from a quad to the next
};

YANMO_INLINE Place place_of(const QuantiseJob& job, int64_t row) {
  if (job.flat) return {job.codes + row * job.padded, 4};
  const int64_t first = row / job.lanes * job.lanes;
  const int64_t lanes = job.virtual_rows - first < job.lanes ? job.virtual_rows - first : job.lanes;
  return {job.codes + first * job.padded + (row - first) * 4, lanes * 4};
}

YANMO_INLINE void put(Place place, int64_t input, Ints codes) {
  int8_t bytes[kLanes];
  store_bytes(bytes, codes);
  int8_t* to = place.codes + input / 4 * place.step;
  for (int i = 0; i < kLanes / 4; ++i) std::memcpy(to + i * place.step, bytes + 4 * i, 4);
}

YANMO_INLINE void put_zeros(Place place, int64_t input, int64_t padded) {
  for (; input < padded; input += 4) std::memset(place.codes + input / 4 * place.step, 0, 4);
}

template <typename T>
YANMO_INLINE void quantise_row(const QuantiseJob& job, const T* x, int64_t row, int64_t filled) {
  const Range range = range_of(x, job.inputs);
  const float scale = range.high / 255.0f - range.low / 255.0f;
  const bool some = range.finite && scale >= kTiny;
  const float inverse = some ? 1.0f / scale : 0.0f;
  const int32_t zero = -128 - (some ? static_cast<int32_t>(std::nearbyint(range.low * inverse)) : 0);
  const Place place = place_of(job, row);
  Ints sum = all_ints(0);
  for (int64_t i = 0; i < filled; i += kLanes) {
    const Floats part = some ? mul(load_part(x + i, job.inputs - i), all(inverse)) : zeros();
    const Ints code = most(least(add(nearest(part), all_ints(zero)), all_ints(127)), all_ints(-128));
    sum = add(sum, code);
    put(place, i, code);
  }
  put_zeros(place, filled, job.padded);
  job.rows[row] = {range.finite ? scale : kNan, zero, sum_of(sum)};
}

template <typename T>
YANMO_INLINE void quantise_wide(const QuantiseJob& job, const T* x, int64_t row, int64_t filled) {
  const Range range = range_of(x, job.inputs);
  const float scale = larger(range.high, -range.low) / kWide;
  const bool some = range.finite && scale >= kTiny;
  const float inverse = some ? 1.0f / scale : 0.0f;
  const Place high_place = place_of(job, 2 * row), low_place = place_of(job, 2 * row + 1);
  Ints high_sum = all_ints(0), low_sum = all_ints(0);
  for (int64_t i = 0; i < filled; i += kLanes) {
    const Floats part = some ? mul(load_part(x + i, job.inputs - i), all(inverse)) : zeros();
    const Ints value = most(least(nearest(part), all_ints(kWide)), all_ints(-kWide));
    const Ints high = shift_right_8(add(value, all_ints(128)));
    const Ints low = sub(value, mul(high, all_ints(256)));
    high_sum = add(high_sum, high);
    low_sum = add(low_sum, low);
    put(high_place, i, high);
    put(low_place, i, low);
  }
  put_zeros(high_place, filled, job.padded);
  put_zeros(low_place, filled, job.padded);
  job.rows[2 * row] = {range.finite ? scale : kNan, 0, sum_of(high_sum)};
  job.rows[2 * row + 1] = {job.rows[2 * row].scale, 0, sum_of(low_sum)};
}

template <typename T>
YANMO_INLINE void quantise_group(const QuantiseJob& job, const T* x, int64_t row, int64_t group) {
  const int64_t from = group * kGroup, count = job.inputs - from < kGroup ? job.inputs - from : kGroup;
  const Range range = range_of(x + from, count);
  const float scale = larger(range.high, -range.low) / 127.0f;
  const bool some = range.finite && scale >= kTiny;
  const float inverse = some ? 1.0f / scale : 0.0f;
  const Place place = place_of(job, row);
  Ints sum = all_ints(0);
  for (int64_t i = 0; i < kGroup; i += kLanes) {
    const Floats part = some && i < count ? mul(load_part(x + from + i, count - i), all(inverse)) : zeros();
    const Ints code = most(least(nearest(part), all_ints(127)), all_ints(-127));
    sum = add(sum, code);
    put(place, from + i, code);
  }
  const int64_t first = row / job.lanes * job.lanes;
  const int64_t lanes = job.virtual_rows - first < job.lanes ? job.virtual_rows - first : job.lanes;
  const int64_t at = first * (job.padded / kGroup) + group * lanes + (row - first);
  job.scales[at] = range.finite ? scale : kNan;
  job.sums[at] = sum_of(sum);
}

template <typename T>
YANMO_INLINE void quantise_each(const QuantiseJob& job, int64_t row) {
  const T* x = static_cast<const T*>(job.x) + row * job.stride;
  const int64_t filled = (job.inputs + kLanes - 1) / kLanes * kLanes;
  if (job.grouped) {
    for (int64_t group = 0; group < job.padded / kGroup; ++group) quantise_group(job, x, row, group);
  } else if (job.wide) {
    quantise_wide(job, x, row, filled);
  } else {
    quantise_row(job, x, row, filled);
  }
}

// Tasks are input rows.
void quantise(const void* argument, int64_t begin, int64_t end) {
  const QuantiseJob& job = *static_cast<const QuantiseJob*>(argument);
  for (int64_t row = begin; row < end; ++row) {
    if (job.type == kBfloat16) quantise_each<uint16_t>(job, row);
    else quantise_each<float>(job, row);
  }
}
