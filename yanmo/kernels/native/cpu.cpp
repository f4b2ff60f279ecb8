#include "cpu.h"

#if defined(YANMO_X86)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(YANMO_ARM) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace yanmo {

extern const Level plain_level;
#if defined(YANMO_X86)
extern const Level avx2_level, avxvnni_level, avx512_level;
#if defined(__linux__)
void amx_linear(const void* job, int64_t begin, int64_t end);
bool amx_granted();
#endif
#elif defined(YANMO_ARM)
extern const Level neon_level;
#endif

namespace {

#if defined(YANMO_X86)

struct Registers {
  uint32_t a, b, c, d;
};

Registers cpuid(uint32_t leaf, uint32_t part) {
  Registers r{0, 0, 0, 0};
#if defined(_MSC_VER)
  int found[4];
  __cpuidex(found, static_cast<int>(leaf), static_cast<int>(part));
  r = {static_cast<uint32_t>(found[0]), static_cast<uint32_t>(found[1]), static_cast<uint32_t>(found[2]),
       static_cast<uint32_t>(found[3])};
#else
  __get_cpuid_count(leaf, part, &r.a, &r.b, &r.c, &r.d);  // leaves the zeros where there is no such leaf
#endif
  return r;
}

// Which registers the operating system saves: those that it does not save must not be used.
uint64_t saved_by_system() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
#endif
}

constexpr bool has(uint32_t word, int bit) { return (word >> bit & 1) != 0; }

void find(const Level** out) {
  const Registers one = cpuid(1, 0);
  if (cpuid(0, 0).a < 7 || !has(one.c, 27)) return;  // OSXSAVE: xgetbv may be asked
  const uint64_t saved = saved_by_system();
  const Registers seven = cpuid(7, 0), more = cpuid(7, 1);
  const bool avx2 = (saved & 0x6) == 0x6 && has(one.c, 12) && has(one.c, 29) && has(seven.b, 5);  // FMA, F16C, AVX2
  if (!avx2) return;
  *out++ = &avx2_level;
  if (has(more.a, 4)) *out++ = &avxvnni_level;
  const bool avx512 = (saved & 0xe6) == 0xe6 && has(seven.b, 16) && has(seven.b, 17) && has(seven.b, 30) &&
                      has(seven.b, 31) && has(seven.c, 11);  // F, DQ, BW, VL, VNNI
  if (avx512) *out++ = &avx512_level;
#if defined(__linux__)
  const bool amx = avx512 && (saved & 0x60000) == 0x60000 && has(seven.d, 24) && has(seven.d, 25);  // TILE, INT8
  if (amx && amx_granted()) {
    static Level tiled = avx512_level;
    tiled.name = "amx";
    tiled.tiles = amx_linear;
    *out++ = &tiled;
  }
#endif
}

#elif defined(YANMO_ARM)

void find(const Level** out) {
#if defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) *out++ = &neon_level;
#elif defined(__APPLE__)
  *out++ = &neon_level;  // every Apple processor that runs macOS has the dot product
#endif
}

#else

void find(const Level**) {}

#endif

struct Found {
  const Level* levels[8] = {};
  Found() {
    levels[0] = &plain_level;
    find(levels + 1);
  }
};

}  // namespace

const Level* const* levels() {
  static const Found found;
  return found.levels;
}

}  // namespace yanmo
