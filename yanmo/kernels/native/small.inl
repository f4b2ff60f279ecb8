// Norms and activations in one pass over memory. Included in the file of each level.

template <typename T>
YANMO_INLINE void normalise_row(const NormJob& job, const T* x, T* out) {
  const int64_t width = job.width;
  const float share = 1.0f / static_cast<float>(width);
  float mean = 0.0f;
  if (job.bias != nullptr) {
    Floats sum = zeros();
    for (int64_t i = 0; i < width; i += kLanes) sum = add(sum, load_part(x + i, width - i));
    mean = sum_of(sum) * share;
  }
  Floats squares = zeros();
  for (int64_t i = 0; i < width; i += kLanes) {
    const Floats apart = sub(load_part(x + i, width - i), first_of(mean, width - i));
    squares = fma(apart, apart, squares);
  }
  const Floats scale = all(1.0f / std::sqrt(sum_of(squares) * share + job.eps));
  for (int64_t i = 0; i < width; i += kLanes) {
    Floats y = mul(mul(sub(load_part(x + i, width - i), all(mean)), scale), load_part(job.weight + i, width - i));
    if (job.bias != nullptr) y = add(y, load_part(job.bias + i, width - i));
    store_part(out + i, y, width - i);
  }
}

void normalise(const void* argument, int64_t begin, int64_t end) {
  const NormJob& job = *static_cast<const NormJob*>(argument);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t from = row * job.stride, to = row * job.out_stride;
    if (job.type == kBfloat16) {
      normalise_row(job, static_cast<const uint16_t*>(job.x) + from, static_cast<uint16_t*>(job.out) + to);
    } else {
      normalise_row(job, static_cast<const float*>(job.x) + from, static_cast<float*>(job.out) + to);
    }
  }
}

YANMO_INLINE Floats activated(int32_t activation, Floats x) {
  switch (activation) {
    case kGelu: return gelu(x);
    case kGeluTanh: return gelu_tanh(x);
    case kRelu: return relu(x);
    case kReluSquared: return mul(relu(x), relu(x));
    case kSilu: return silu(x);
    default: return tanh_of(x);
  }
}

template <typename T>
YANMO_INLINE void activate_piece(const ActivateJob& job, int64_t piece) {
  const int64_t from = piece * kPiece, left = job.count - from, count = left < kPiece ? left : kPiece;
  const T* x = static_cast<const T*>(job.x) + from;
  const T* gated = job.gated == nullptr ? nullptr : static_cast<const T*>(job.gated) + from;
  for (int64_t i = 0; i < count; i += kLanes) {
    Floats y = activated(job.activation, load_part(x + i, count - i));
    if (gated != nullptr) y = mul(y, load_part(gated + i, count - i));
    store_part(static_cast<T*>(job.out) + from + i, y, count - i);
  }
}

void activate(const void* argument, int64_t begin, int64_t end) {
  const ActivateJob& job = *static_cast<const ActivateJob*>(argument);
  for (int64_t piece = begin; piece < end; ++piece) {
    if (job.type == kBfloat16) activate_piece<uint16_t>(job, piece);
    else activate_piece<float>(job, piece);
  }
}
