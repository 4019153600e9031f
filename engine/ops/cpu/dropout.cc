// Philox4x32-10 over vectors: a lane is one counter, four elements of the mask.
#include "engine/ops/cpu/dropout.h"

#include "engine/core/philox.h"
#include "engine/ops/cpu/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/dropout.cc"
#include "hwy/foreach_target.h"  // NOLINT: compiles the rest once per target
//
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Writes the masks of whole vectors of counters from `counter` on; returns how many elements, at
// most `count`. `high` is the counter's word without the element part.
#if HWY_TARGET == HWY_SCALAR
int64_t MaskVectors(const LoraDropout&, uint32_t, uint32_t, uint32_t, int64_t, float*) { return 0; }
#else
constexpr hn::ScalableTag<uint32_t> kWords;
constexpr hn::RepartitionToWide<decltype(kWords)> kWide;
constexpr hn::RebindToSigned<decltype(kWords)> kInts;
constexpr hn::RebindToFloat<decltype(kWords)> kFloats;
using Words = hn::Vec<decltype(kWords)>;

// The high and the low 32 bits of each product.
HWY_INLINE void Multiply(Words a, uint32_t factor, Words& high, Words& low) {
  const Words b = hn::Set(kWords, factor);
  const auto even = hn::MulEven(a, b);
  const auto odd = hn::MulEven(hn::BitCast(kWords, hn::ShiftRight<32>(hn::BitCast(kWide, a))), b);
  const auto low_half = hn::Set(kWide, 0xffffffffu);
  low = hn::BitCast(kWords, hn::Or(hn::And(even, low_half), hn::ShiftLeft<32>(odd)));
  high = hn::BitCast(kWords, hn::Or(hn::ShiftRight<32>(even), hn::AndNot(low_half, odd)));
}

HWY_INLINE auto Kept(Words word, float probability) {
  // UniformFloat: 24 random bits, exact in float.
  const auto bits = hn::BitCast(kInts, hn::ShiftRight<8>(word));
  const auto uniform = hn::Mul(hn::ConvertTo(kFloats, bits), hn::Set(kFloats, 0x1p-24f));
  const auto kept = hn::Ge(uniform, hn::Set(kFloats, probability));
  return hn::IfThenElseZero(kept, hn::Set(kFloats, 1.0f));
}

int64_t MaskVectors(const LoraDropout& dropout, uint32_t low, uint32_t high, uint32_t counter,
                    int64_t count, float* mask) {
  const int64_t step = 4 * hn::Lanes(kWords);
  int64_t done = 0;
  for (; done + step <= count; done += step) {
    Words c0 = hn::Set(kWords, dropout.step), c1 = hn::Set(kWords, dropout.module);
    Words c2 = hn::Set(kWords, low);
    Words c3 =
        hn::Xor(hn::Iota(kWords, counter + static_cast<uint32_t>(done / 4)), hn::Set(kWords, high));
    uint32_t k0 = static_cast<uint32_t>(dropout.seed);
    uint32_t k1 = static_cast<uint32_t>(dropout.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      Words high0, low0, high1, low1;
      Multiply(c0, 0xD2511F53u, high0, low0);
      Multiply(c2, 0xCD9E8D57u, high1, low1);
      c0 = hn::Xor(hn::Xor(high1, c1), hn::Set(kWords, k0));
      c2 = hn::Xor(hn::Xor(high0, c3), hn::Set(kWords, k1));
      c1 = low1;
      c3 = low0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const float p = dropout.probability;
    hn::StoreInterleaved4(Kept(c0, p), Kept(c1, p), Kept(c2, p), Kept(c3, p), kFloats, mask + done);
  }
  return done;
}
#endif

}  // namespace lorad::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(MaskVectors);

void DropMask(const LoraDropout& dropout, int64_t token, int64_t begin, int64_t count,
              float* mask) {
  const uint64_t key = dropout.token_keys.as<uint64_t>()[token];
  const uint32_t low = static_cast<uint32_t>(key);
  const uint32_t high = static_cast<uint32_t>(key >> 32) << 14;
  const uint32_t counter = static_cast<uint32_t>(begin / 4);
  int64_t i = HWY_DYNAMIC_DISPATCH(MaskVectors)(dropout, low, high, counter, count, mask);
  for (; i < count; ++i) {
    const PhiloxBlock block = Philox4x32(dropout.seed, dropout.step, dropout.module, low,
                                         high ^ (counter + static_cast<uint32_t>(i / 4)));
    mask[i] = UniformFloat(block.words[i % 4]) >= dropout.probability ? 1.0f : 0.0f;
  }
}

}  // namespace lorad::cpu
#endif  // HWY_ONCE
