// AVX2 with AVX-VNNI (Alder Lake, Zen 5 and later).
#define YANMO_LEVEL avxvnni_level
#define YANMO_LEVEL_NAME "avxvnni"
#define YANMO_TARGET "avx2,fma,f16c,avxvnni"
#define YANMO_AVXVNNI 1
#include "avx2.inl"
