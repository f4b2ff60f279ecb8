// Exponential and GELU, in the vectors of train.inl, which includes this.

// eˣ of x ≤ 0, within 3e-7 of itself: 2ⁿ · eʳ, |r| ≤ ln 2 / 2; 1e-38 below -87.
YANMO_INLINE Floats power(Floats x) {
  constexpr float kWhole = 12582912.0f;  // 1.5 · 2²³: what is added to it becomes whole, in its last bits
  x = most(x, all(-87.0f));
  const Floats shifted = x * 1.44269504f + kWhole, n = shifted - kWhole;
  Floats r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Floats y = all(1.0f / 720);
  y = y * r + 1.0f / 120;
  y = y * r + 1.0f / 24;
  y = y * r + 1.0f / 6;
  y = y * r + 0.5f;
  y = y * r + 1.0f;
  y = y * r + 1.0f;
  return y * (Floats)(((Ints)shifted - (Ints)all(kWhole) + 127) << 23);
}

template <size_t count>
YANMO_INLINE Floats polynomial(Floats x, const float (&factors)[count]) {
  Floats y = all(factors[count - 1]);
  for (size_t k = count - 1; k-- > 0;) y = y * x + factors[k];
  return y;
}

// 1/2 + x p(x²) up to 5, and 0 or 1 beyond. Least squares at Chebyshev's points, weighed towards the largest error.
template <size_t count>
YANMO_INLINE Floats rising(Floats x, Floats u, const float (&factors)[count]) {
  const Floats y = x * polynomial(u, factors) + 0.5f;
  return x > 5.0f ? all(1.0f) : x < -5.0f ? Floats{} : y;
}

YANMO_INLINE Floats from_square(Floats x) { return x * x * 0.08f - 1.0f; }  // x² in [0, 25] → [-1, 1]

// Φ(x), the share of the normal distribution below x, within 3e-7.
YANMO_INLINE Floats normal(Floats x, Floats u) {
  static constexpr float kFactors[] = {
      0.141363785f,   -0.0702962801f, 0.0515205227f,  -0.0404426046f, 0.0314421467f,  -0.0232686792f, 0.0164022855f,
      -0.0111642694f, 0.00641027885f, -0.00268565281f, 0.00172302069f, -0.00161323405f, 0.000608648406f};
  return rising(x, u, kFactors);
}

// Φ(x) + x Φ'(x), the slope of x Φ(x), within 1e-6, and 7e-6 beyond 5.
YANMO_INLINE Floats slope(Floats x, Floats u) {
  static constexpr float kFactors[] = {
      0.1421341f,    -0.0751093328f, 0.0665437058f, -0.0717865378f, 0.0807186961f, -0.0844574422f, 0.0782100931f,
      -0.0678882226f, 0.0565888025f, -0.0347290635f, 0.0126389768f, -0.0102487206f, 0.0121066952f, -0.00472044759f};
  return rising(x, u, kFactors);
}

void curve(const void* argument, int64_t begin, int64_t end) {
  const CurveJob& job = *static_cast<const CurveJob*>(argument);
  const int64_t width = job.width;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t last = (block + 1) * kRowBlock < job.rows ? (block + 1) * kRowBlock : job.rows;
    if (job.columns == nullptr) {
      for (int64_t i = block * kRowBlock * width; i < last * width; i += kWide) {
        const Floats x = load(job.x + i);
        store(job.out + i, x * normal(x, from_square(x)));
      }
      continue;
    }
    float* columns = job.columns + block * width;
    std::memset(columns, 0, static_cast<size_t>(width) * 4);
    for (int64_t place = block * kRowBlock * width; place < last * width; place += width) {
      for (int64_t i = place; i < place + width; i += kWide) {
        const Floats x = load(job.x + i), u = from_square(x);
        store(job.out + i, x * normal(x, u));
        const Floats g = load(job.upstream + i) * slope(x, u);
        store(job.upstream + i, g);
        add_to(columns + i - place, g);
      }
    }
  }
}
