// Decoding k-bit weights by the definition in engine/ops/weight.h.
#include <algorithm>

#include "engine/core/float16.h"
#include "engine/ops/cpu/highway_targets.h"
#include "engine/ops/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/ops/cpu/dequantize.cc"
#include "hwy/foreach_target.h"  // NOLINT: compiles the rest once per target
//
#include "engine/ops/cpu/weight_decode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu::HWY_NAMESPACE {

// Elements [begin, end) of the flattened matrix.
template <class Format>
HWY_INLINE void DecodeElements(Format& format, int64_t block_elements, int64_t begin, int64_t end,
                               float* out) {
  const int64_t step = 2 * hn::Lanes(kFloats);
  for (int64_t i = begin; i < end;) {
    const int64_t block = i / block_elements;
    const int64_t stop = std::min(end, (block + 1) * block_elements);
    format.Block(block);
    if (i % 2 != 0) {
      out[i - begin] = format.One(i);
      ++i;
    }
    for (; i + step <= stop; i += step) {
      const Pair pair = format.Load(i);
      hn::StoreInterleaved2(pair.even, pair.odd, kFloats, out + (i - begin));
    }
    for (; i < stop; ++i) out[i - begin] = format.One(i);
  }
}

void DecodeTile(const WeightView& weight, const WeightTile& tile, float* out) {
  const int64_t in = weight.in_features, width = tile.in_end - tile.in_begin;
  const int64_t block_elements = BlockElements(weight);
  WithFormat(weight, [&](auto format) HWY_ATTR {
    for (int64_t o = tile.out_begin; o < tile.out_end; ++o) {
      DecodeElements(format, block_elements, o * in + tile.in_begin, o * in + tile.in_end,
                     out + (o - tile.out_begin) * width);
    }
  });
}

}  // namespace lorad::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(DecodeTile);

template <>
void DequantizeTile(const WeightView& weight, const WeightTile& tile, float* out) {
  HWY_DYNAMIC_DISPATCH(DecodeTile)(weight, tile, out);
}

namespace {

// By way of float, which holds every value exactly.
template <typename T, typename Convert>
void DequantizeThroughFloat(const WeightView& weight, const WeightTile& tile, T* out,
                            Convert convert) {
  constexpr int64_t kPart = 1024;
  float part[kPart];
  for (int64_t o = tile.out_begin; o < tile.out_end; ++o) {
    for (int64_t i = tile.in_begin; i < tile.in_end; i += kPart) {
      const int64_t end = std::min(i + kPart, tile.in_end);
      HWY_DYNAMIC_DISPATCH(DecodeTile)(weight, {o, o + 1, i, end}, part);
      out = std::transform(part, part + (end - i), out, convert);
    }
  }
}

}  // namespace

template <>
void DequantizeTile(const WeightView& weight, const WeightTile& tile, double* out) {
  DequantizeThroughFloat(weight, tile, out, [](float value) { return double{value}; });
}
template <>
void DequantizeTile(const WeightView& weight, const WeightTile& tile, BFloat16* out) {
  DequantizeThroughFloat(weight, tile, out, ToBFloat16);
}

template <typename T>
void Dequantize(const DequantizeArgs& args, ThreadPool& pool, FlopMeter flops) {
  const int64_t in = args.weight.in_features;
  const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, in));
  pool.For(args.weight.out_features, grain, [&](int64_t begin, int64_t end) {
    DequantizeTile(args.weight, {begin, end, 0, in}, args.out.as<T>() + begin * in);
    if (args.weight.spec.format != QuantFormat::kNone)
      flops.Forward(FlopOp::kDequantize, (end - begin) * in);
  });
}

template void Dequantize<float>(const DequantizeArgs&, ThreadPool&, FlopMeter);
template void Dequantize<double>(const DequantizeArgs&, ThreadPool&, FlopMeter);
template void Dequantize<BFloat16>(const DequantizeArgs&, ThreadPool&, FlopMeter);

}  // namespace lorad::cpu
#endif  // HWY_ONCE
