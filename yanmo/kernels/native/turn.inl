// Rows become columns, in blocks of 8 x 8 numbers of 16 bits. Included inside an anonymous namespace.

using Eight = uint16_t __attribute__((vector_size(16)));

YANMO_INLINE void pair(const Eight& a, const Eight& b, Eight* low, Eight* high) {
  *low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  *high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

// Three times, each row is mixed with the one four below.
YANMO_INLINE void turn_block(const uint16_t* from, int64_t width, uint16_t* to, int64_t rows) {
  Eight x[8], y[8];
  for (int k = 0; k < 8; ++k) std::memcpy(&x[k], from + k * width, 16);
  for (int k = 0; k < 4; ++k) pair(x[k], x[k + 4], &y[2 * k], &y[2 * k + 1]);
  for (int k = 0; k < 4; ++k) pair(y[k], y[k + 4], &x[2 * k], &x[2 * k + 1]);
  for (int k = 0; k < 4; ++k) pair(x[k], x[k + 4], &y[2 * k], &y[2 * k + 1]);
  for (int k = 0; k < 8; ++k) std::memcpy(to + k * rows, &y[k], 16);
}
