// From whole numbers to outputs. Included in the file of each level.

YANMO_INLINE void store_out(const LinearJob& job, int64_t row, int64_t output, Floats y) {
  const int64_t at = row * job.out_stride + output;
  if (job.type == kBfloat16) store_part(static_cast<uint16_t*>(job.out) + at, y, job.outputs - output);
  else store_part(static_cast<float*>(job.out) + at, y, job.outputs - output);
}

YANMO_INLINE Floats bias_of(const LinearJob& job, int64_t output) {
  return job.bias == nullptr ? zeros() : load_part(job.bias + output, job.outputs - output);
}

// The sums of one panel and one virtual row, or the two of a value with two codes → 16 outputs.
template <bool Wide>
YANMO_INLINE void finish_row(const LinearJob& job, const Ints* sums, int64_t panel, int64_t at) {
  const int64_t output = panel * kLanes;
  const Row* row = job.rows + at;
  const Floats scale = mul(load(job.scale + output), all(row->scale));
  Floats y;
  if constexpr (Wide) {
    const Floats high = floats(sub(sums[0], all_ints(kShift * row[0].sum)));
    const Floats low = floats(sub(sums[1], all_ints(kShift * row[1].sum)));
    y = add(mul(high, all(256.0f)), low);
  } else {
    const Ints shifted = sub(sums[0], all_ints(kShift * row->sum));
    y = floats(sub(shifted, mul(load_ints(job.sums + output), all_ints(row->zero))));
  }
  store_out(job, Wide ? at / 2 : at, output, add(mul(y, scale), bias_of(job, output)));
}
