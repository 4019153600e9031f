// Sums over the lanes of four vectors at once. Compiled once per Highway target.
#if defined(LORAD_ENGINE_OPS_CPU_SUM_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORAD_ENGINE_OPS_CPU_SUM_LANES_INL_H_
#undef LORAD_ENGINE_OPS_CPU_SUM_LANES_INL_H_
#else
#define LORAD_ENGINE_OPS_CPU_SUM_LANES_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::CappedTag<float, 16> kFloats;
using Floats = hn::Vec<decltype(kFloats)>;

// sums[j] = the sum of the lanes of v[j], by the same tree for each j.
HWY_INLINE void SumLanes4(const Floats* v, float* sums) {
#if HWY_TARGET == HWY_SCALAR
  for (int j = 0; j < 4; ++j) sums[j] = hn::GetLane(v[j]);
#else
  constexpr hn::RepartitionToWide<decltype(kFloats)> kWide;
  const Floats ab =
      hn::Add(hn::InterleaveLower(kFloats, v[0], v[1]), hn::InterleaveUpper(kFloats, v[0], v[1]));
  const Floats cd =
      hn::Add(hn::InterleaveLower(kFloats, v[2], v[3]), hn::InterleaveUpper(kFloats, v[2], v[3]));
  const auto low = hn::InterleaveLower(kWide, hn::BitCast(kWide, ab), hn::BitCast(kWide, cd));
  const auto high = hn::InterleaveUpper(kWide, hn::BitCast(kWide, ab), hn::BitCast(kWide, cd));
  // Each 128-bit block now holds its part of the four sums.
  const Floats blocks = hn::Add(hn::BitCast(kFloats, low), hn::BitCast(kFloats, high));
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  constexpr hn::Half<decltype(kFloats)> kHalf;
  constexpr hn::Half<decltype(kHalf)> kQuarter;
  const auto half = hn::Add(hn::LowerHalf(kHalf, blocks), hn::UpperHalf(kHalf, blocks));
  hn::StoreU(hn::Add(hn::LowerHalf(kQuarter, half), hn::UpperHalf(kQuarter, half)), kQuarter, sums);
#elif HWY_TARGET == HWY_AVX2
  constexpr hn::Half<decltype(kFloats)> kHalf;
  hn::StoreU(hn::Add(hn::LowerHalf(kHalf, blocks), hn::UpperHalf(kHalf, blocks)), kHalf, sums);
#else
  static_assert(hn::MaxLanes(kFloats) == 4);
  hn::StoreU(blocks, kFloats, sums);
#endif
#endif
}

// The first `count` elements, zeros after them.
HWY_INLINE Floats LoadFirst(const float* x, int64_t count) {
  if (count >= static_cast<int64_t>(hn::Lanes(kFloats))) return hn::LoadU(kFloats, x);
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX2
  return hn::MaskedLoad(hn::FirstN(kFloats, count), kFloats, x);
#else
  HWY_ALIGN float padded[hn::MaxLanes(kFloats)] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = x[i];
  return hn::Load(kFloats, padded);
#endif
}

}  // namespace lorad::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
