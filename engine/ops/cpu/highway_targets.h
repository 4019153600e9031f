// Include before hwy/foreach_target.h: the instruction sets that vector code is compiled for.
// x86: baseline (SSE2), AVX2 and AVX-512; Arm: NEON. The others cost build time for little speed.
// Not SVE: its vectors have no size, and cannot sit in arrays of accumulators.
#ifndef LORAD_ENGINE_OPS_CPU_HIGHWAY_TARGETS_H_
#define LORAD_ENGINE_OPS_CPU_HIGHWAY_TARGETS_H_

#include "hwy/detect_targets.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#endif  // LORAD_ENGINE_OPS_CPU_HIGHWAY_TARGETS_H_
