// AVX2 with FMA and F16C (Haswell, Zen and later): 16 outputs in two registers.
#define YANMO_LEVEL avx2_level
#define YANMO_LEVEL_NAME "avx2"
#define YANMO_TARGET "avx2,fma,f16c"
#include "avx2.inl"
