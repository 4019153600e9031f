// Decoding packed weights in vectors: one struct a storage format, all with the same shape, so that
// the loops that use them are written once. Compiled once per Highway target.
//
// A Pair is the weights of columns 2i (even) and 2i + 1 (odd) for Lanes(kFloats) consecutive i:
// what a byte of 4-bit codes, two bytes of 8-bit codes or four bytes of bf16 hold. Products run
// over the columns in that order, with x split the same way.
#if defined(LORAD_ENGINE_OPS_CPU_WEIGHT_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORAD_ENGINE_OPS_CPU_WEIGHT_DECODE_INL_H_
#undef LORAD_ENGINE_OPS_CPU_WEIGHT_DECODE_INL_H_
#else
#define LORAD_ENGINE_OPS_CPU_WEIGHT_DECODE_INL_H_
#endif

#include <cstdint>

#include "engine/core/float16.h"
#include "engine/ops/cpu/sum_lanes-inl.h"
#include "engine/ops/cpu/weight_scale.h"
#include "engine/ops/weight.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::RebindToSigned<decltype(kFloats)> kInts;
constexpr hn::Rebind<uint8_t, decltype(kFloats)> kBytes;
constexpr hn::Rebind<uint16_t, decltype(kFloats)> kHalves;
using Ints = hn::Vec<decltype(kInts)>;

struct Pair {
  Floats even, odd;
};

// As ToBFloat16 rounds, widened again. No NaN can occur: scales and books are finite.
HWY_INLINE Floats RoundToBFloat16(Floats value) {
  const Ints bits = hn::BitCast(kInts, value);
  const Ints odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kInts, 1));
  const Ints rounded = hn::Add(bits, hn::Add(odd, hn::Set(kInts, 0x7fff)));
  return hn::BitCast(kFloats, hn::And(rounded, hn::Set(kInts, static_cast<int32_t>(0xffff0000u))));
}

// The 16 values of a block, rounded to bf16, behind a look-up by code: in one register (AVX-512),
// in two (AVX2), or in an L1 line.
class FourBitTable {
 public:
  HWY_INLINE FourBitTable() = default;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  HWY_INLINE void Set(const float* book, float scale) {
    values_ = RoundToBFloat16(hn::Mul(hn::LoadU(kFloats, book), hn::Set(kFloats, scale)));
  }
  HWY_INLINE Floats Look(Ints codes) const {
    return hn::TableLookupLanes(values_, hn::IndicesFromVec(kFloats, codes));
  }

 private:
  Floats values_;
#elif HWY_TARGET == HWY_AVX2
  HWY_INLINE void Set(const float* book, float scale) {
    const Floats factor = hn::Set(kFloats, scale);
    low_ = RoundToBFloat16(hn::Mul(hn::LoadU(kFloats, book), factor));
    high_ = RoundToBFloat16(hn::Mul(hn::LoadU(kFloats, book + 8), factor));
  }
  HWY_INLINE Floats Look(Ints codes) const {
    const auto lanes = hn::IndicesFromVec(kFloats, hn::And(codes, hn::Set(kInts, 7)));
    const auto upper = hn::RebindMask(kFloats, hn::Gt(codes, hn::Set(kInts, 7)));
    return hn::IfThenElse(upper, hn::TableLookupLanes(high_, lanes),
                          hn::TableLookupLanes(low_, lanes));
  }

 private:
  Floats low_, high_;
#else
  HWY_INLINE void Set(const float* book, float scale) {
    const Floats factor = hn::Set(kFloats, scale);
    for (size_t i = 0; i < 16; i += hn::Lanes(kFloats)) {
      hn::StoreU(RoundToBFloat16(hn::Mul(hn::LoadU(kFloats, book + i), factor)), kFloats,
                 values_ + i);
    }
  }
  HWY_INLINE Floats Look(Ints codes) const { return hn::GatherIndex(kFloats, values_, codes); }

 private:
  float values_[16];
#endif
};

// Formats. Block(b) before the elements of block b; Load(e): the pair of elements e, e + 1, ...,
// e + 2 Lanes - 1; One(e): one element. e is the index in the flattened matrix, even for Load.
class FourBit {
 public:
  HWY_INLINE FourBit() = default;
  HWY_INLINE explicit FourBit(const WeightView& weight)
      : weight_(&weight),
        codes_(static_cast<const uint8_t*>(weight.codes.data)),
        book_(static_cast<const float*>(weight.code_book.data)) {}
  HWY_INLINE void Block(int64_t block) {
    scale_ = WeightScale(*weight_, block);
    table_.Set(book_, scale_);
  }
  HWY_INLINE Pair Load(int64_t element) const {
    const Ints bytes = hn::PromoteTo(kInts, hn::LoadU(kBytes, codes_ + element / 2));
    return {table_.Look(hn::ShiftRight<4>(bytes)), table_.Look(hn::And(bytes, hn::Set(kInts, 15)))};
  }
  HWY_INLINE float One(int64_t element) const {
    const uint8_t byte = codes_[element / 2];
    return ToFloat(ToBFloat16(book_[element % 2 == 0 ? byte >> 4 : byte & 15] * scale_));
  }

 private:
  const WeightView* weight_;
  const uint8_t* codes_;
  const float* book_;
  float scale_;
  FourBitTable table_;
};

class EightBit {
 public:
  HWY_INLINE EightBit() = default;
  HWY_INLINE explicit EightBit(const WeightView& weight)
      : weight_(&weight),
        codes_(static_cast<const uint8_t*>(weight.codes.data)),
        book_(static_cast<const float*>(weight.code_book.data)) {}
  HWY_INLINE void Block(int64_t block) { scale_ = WeightScale(*weight_, block); }
  HWY_INLINE Pair Load(int64_t element) const {
    const auto pairs = hn::LoadU(kHalves, reinterpret_cast<const uint16_t*>(codes_ + element));
    const Ints codes = hn::PromoteTo(kInts, pairs);  // little-endian: the even one is low
    return {Value(hn::And(codes, hn::Set(kInts, 255))), Value(hn::ShiftRight<8>(codes))};
  }
  HWY_INLINE float One(int64_t element) const {
    return ToFloat(ToBFloat16(book_[codes_[element]] * scale_));
  }

 private:
  HWY_INLINE Floats Value(Ints codes) const {
    const Floats values = hn::GatherIndex(kFloats, book_, codes);
    return RoundToBFloat16(hn::Mul(values, hn::Set(kFloats, scale_)));
  }

  const WeightView* weight_;
  const uint8_t* codes_;
  const float* book_;
  float scale_;
};

class Dense {
 public:
  HWY_INLINE Dense() = default;
  HWY_INLINE explicit Dense(const WeightView& weight)
      : values_(static_cast<const BFloat16*>(weight.dense.data)) {}
  HWY_INLINE void Block(int64_t) {}
  HWY_INLINE Pair Load(int64_t element) const {
    const Ints bits = hn::LoadU(kInts, reinterpret_cast<const int32_t*>(values_ + element));
    const Ints high = hn::Set(kInts, static_cast<int32_t>(0xffff0000u));
    return {hn::BitCast(kFloats, hn::ShiftLeft<16>(bits)),  // little-endian: the even one is low
            hn::BitCast(kFloats, hn::And(bits, high))};
  }
  HWY_INLINE float One(int64_t element) const { return ToFloat(values_[element]); }

 private:
  const BFloat16* values_;
};

// body(Format) for the format of the weight.
template <typename Body>
HWY_INLINE void WithFormat(const WeightView& weight, const Body& body) {
  if (weight.spec.format == QuantFormat::kNone) return body(Dense(weight));
  if (CodeBits(weight.spec.format) == 4) return body(FourBit(weight));
  body(EightBit(weight));
}
// Elements that share a scale; all of them for dense weights.
HWY_INLINE int64_t BlockElements(const WeightView& weight) {
  return weight.spec.format == QuantFormat::kNone ? weight.num_elements() : weight.spec.block;
}

}  // namespace lorad::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
