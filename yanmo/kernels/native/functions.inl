// Functions of 16 floats. Included in the file of each level.

// Fewer than 16 where a row ends: nothing past it is read or written.
template <typename T>
YANMO_INLINE Floats load_part(const T* x, int64_t count) {
  if (count >= kLanes) return load(x);
  T part[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) part[i] = x[i];
  return load(part);
}

// x in the first `count` lanes, 0 in the others.
YANMO_INLINE Floats first_of(float x, int64_t count) {
  if (count >= kLanes) return all(x);
  float part[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) part[i] = x;
  return load(part);
}

template <typename T>
YANMO_INLINE void store_part(T* to, Floats y, int64_t count) {
  if (count >= kLanes) return store(to, y);
  T part[kLanes];
  store(part, y);
  std::memcpy(to, part, static_cast<size_t>(count) * sizeof(T));
}

// eˣ: 2ⁿ · eʳ with |r| ≤ ln 2 / 2, and the series of eʳ to r⁷; within 2 units in the last place, 1.2e-38 and
// 3.4e38 beyond the range of float32, NaN for NaN (least and most give the second operand where one is NaN).
YANMO_INLINE Floats exponential(Floats x) {
  x = most(all(-87.33654f), least(all(88.72283f), x));
  const Floats n = floats(nearest(mul(x, all(1.44269504f))));
  Floats r = fma(n, all(-0.693359375f), x);
  r = fma(n, all(2.12194440e-4f), r);
  Floats y = all(1.0f / 5040);
  y = fma(y, r, all(1.0f / 720));
  y = fma(y, r, all(1.0f / 120));
  y = fma(y, r, all(1.0f / 24));
  y = fma(y, r, all(1.0f / 6));
  y = fma(y, r, all(0.5f));
  y = fma(y, r, all(1.0f));
  y = fma(y, r, all(1.0f));
  // in two steps, as 2¹²⁸ is no float32
  const Floats half = floats(nearest(mul(n, all(0.5f))));
  return mul(mul(y, two_to(nearest(half))), two_to(nearest(sub(n, half))));
}

YANMO_INLINE Floats silu(Floats x) { return divide(x, add(all(1.0f), exponential(sub(zeros(), x)))); }

// x · (1 + tanh u) / 2 = x / (1 + e⁻²ᵘ)
YANMO_INLINE Floats gelu_tanh(Floats x) {
  const Floats u = mul(mul(x, all(0.7978845608f)), fma(mul(x, x), all(0.044715f), all(1.0f)));
  return divide(x, add(all(1.0f), exponential(mul(u, all(-2.0f)))));
}

// x · (1 + erf(x / √2)) / 2, erf by Abramowitz & Stegun 7.1.26, within 1.5e-7
YANMO_INLINE Floats gelu(Floats x) {
  const Floats a = mul(magnitude(x), all(0.70710678f));
  const Floats t = divide(all(1.0f), fma(a, all(0.3275911f), all(1.0f)));
  Floats y = all(1.061405429f);
  y = fma(y, t, all(-1.453152027f));
  y = fma(y, t, all(1.421413741f));
  y = fma(y, t, all(-0.284496736f));
  y = fma(y, t, all(0.254829592f));
  const Floats tail = mul(mul(y, t), exponential(sub(zeros(), mul(a, a))));  // 1 - erf(a), from 1 to 0
  const Floats half = mul(all(0.5f), x);
  return fma(magnitude(half), sub(all(1.0f), tail), half);  // x/2 + |x|/2 · erf(|x|/√2)
}

YANMO_INLINE Floats relu(Floats x) { return most(zeros(), x); }

YANMO_INLINE Floats tanh_of(Floats x) {
  return sub(all(1.0f), divide(all(2.0f), add(all(1.0f), exponential(mul(all(2.0f), x)))));
}
