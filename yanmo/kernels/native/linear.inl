// Codes × panels → output. Included in the file of each level, which gives the words for 16 lanes.

constexpr int64_t kAhead = 2048;  // bytes of weights that are asked for before they are used

// S independent sums for each row hide the latency of the product where there are few rows.
template <int R, int S, bool Wide>
YANMO_INLINE void rows_panel(const LinearJob& job, int64_t panel, int64_t first) {
  const uint8_t* w = job.panels + panel * kLanes * job.padded;
  const int8_t* code = job.codes + first * job.padded;
  Ints sums[S][R];
  YANMO_UNROLL
  for (int s = 0; s < S; ++s) {
    YANMO_UNROLL
    for (int r = 0; r < R; ++r) sums[s][r] = all_ints(0);
  }
  for (int64_t quad = 0; quad < job.padded / 4; quad += S) {
    YANMO_UNROLL
    for (int s = 0; s < S; ++s) {
      fetch(w + kAhead + s * 64);
      const Bytes bytes = load_bytes(w + s * 64);
      YANMO_UNROLL
      for (int r = 0; r < R; ++r) sums[s][r] = dot(sums[s][r], bytes, code + (s * R + r) * 4);
    }
    w += S * 64;
    code += S * R * 4;
  }
  YANMO_UNROLL
  for (int s = 1; s < S; ++s) {
    YANMO_UNROLL
    for (int r = 0; r < R; ++r) sums[0][r] = add(sums[0][r], sums[s][r]);
  }
  YANMO_UNROLL
  for (int r = 0; r < R; r += Wide ? 2 : 1) finish_row<Wide>(job, sums[0] + r, panel, first + r);
}

template <int R, int Bits>
YANMO_INLINE void groups_panel(const LinearJob& job, int64_t panel, int64_t first) {
  constexpr int64_t kUnit = kLanes * (2 + kGroup * Bits / 8);
  const int64_t groups = job.padded / kGroup;
  const uint8_t* w = job.panels + panel * groups * kUnit;
  const int8_t* code = job.codes + first * job.padded;
  const float* row_scale = job.row_scales + first * groups;
  const int32_t* row_sum = job.row_sums + first * groups;
  Floats y[R];
  YANMO_UNROLL
  for (int r = 0; r < R; ++r) y[r] = zeros();
  for (int64_t group = 0; group < groups; ++group) {
    Ints sums[R];
    YANMO_UNROLL
    for (int r = 0; r < R; ++r) sums[r] = all_ints(row_sum[r] * (Bits == 4 ? -8 : -kShift));
    YANMO_UNROLL
    for (int part = 0; part < kGroup * Bits / 32; ++part) {
      const uint8_t* from = w + 2 * kLanes + part * 64;
      fetch(from + kAhead);
      if constexpr (Bits == 4) {
        const Nibbles low = load_low(from), high = load_high(from);
        YANMO_UNROLL
        for (int r = 0; r < R; ++r) {
          sums[r] = dot_nibbles(sums[r], low, code + ((2 * part) * R + r) * 4);
          sums[r] = dot_nibbles(sums[r], high, code + ((2 * part + 1) * R + r) * 4);
        }
      } else {
        const Bytes bytes = load_bytes(from);
        YANMO_UNROLL
        for (int r = 0; r < R; ++r) sums[r] = dot_any(sums[r], bytes, code + (part * R + r) * 4);
      }
    }
    const Floats scale = load_half(w);
    YANMO_UNROLL
    for (int r = 0; r < R; ++r) y[r] = fma(floats(sums[r]), mul(scale, all(row_scale[r])), y[r]);
    w += kUnit;
    code += R * kGroup;
    row_scale += R;
    row_sum += R;
  }
  const Floats bias = bias_of(job, panel * kLanes);
  YANMO_UNROLL
  for (int r = 0; r < R; ++r) store_out(job, first + r, panel * kLanes, add(y[r], bias));
}

constexpr int sums_of(int lanes) { return lanes <= 2 && kRowsLanes >= 8 ? 4 : lanes <= 4 && kRowsLanes >= 8 ? 2 : 1; }

template <int R>
YANMO_INLINE void any_panel(const LinearJob& job, int64_t panel, int64_t first) {
  if constexpr (R <= kGroupsLanes) {
    if (job.format == kGroups4) return groups_panel<R, 4>(job, panel, first);
    if (job.format == kGroups8) return groups_panel<R, 8>(job, panel, first);
  }
  if constexpr (R <= kRowsLanes) {
    if constexpr (R % 2 == 0) {
      if (job.wide) return rows_panel<R, sums_of(R), true>(job, panel, first);
    }
    rows_panel<R, sums_of(R), false>(job, panel, first);
  }
}

template <int R>
void panel_of(const LinearJob& job, int64_t panel, int64_t first) {
  any_panel<R>(job, panel, first);
}

using Panel = void (*)(const LinearJob&, int64_t, int64_t);
constexpr Panel kPanels[] = {
    nullptr,      panel_of<1>,  panel_of<2>,  panel_of<3>,  panel_of<4>,  panel_of<5>,  panel_of<6>,
    panel_of<7>,  panel_of<8>,  panel_of<9>,  panel_of<10>, panel_of<11>, panel_of<12>, panel_of<13>,
    panel_of<14>, panel_of<15>, panel_of<16>, panel_of<17>, panel_of<18>, panel_of<19>, panel_of<20>,
    panel_of<21>, panel_of<22>, panel_of<23>, panel_of<24>,
};

// Tasks are pairs (chunk of rows, panel), the panels of one chunk in a run.
void linear(const void* argument, int64_t begin, int64_t end) {
  const LinearJob& job = *static_cast<const LinearJob*>(argument);
  const int64_t panels = (job.outputs + kLanes - 1) / kLanes;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t from = task / panels * job.chunk;
    const int64_t to = job.virtual_rows - from < job.chunk ? job.virtual_rows : from + job.chunk;
    for (int64_t first = from; first < to; first += job.lanes) {
      const int64_t lanes = to - first < job.lanes ? to - first : job.lanes;
      kPanels[lanes](job, task % panels, first);
    }
  }
}
