// Decoding k-bit weights by the definition in engine/ops/weight.h.
#include <algorithm>
#include <type_traits>

#include "engine/core/float16.h"
#include "engine/ops/cpu/kernels.h"
#include "engine/ops/cpu/weight_scale.h"

namespace lorad::cpu {
namespace {

template <typename T>
T FromBFloat16(BFloat16 value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return value;
  } else {
    return static_cast<T>(ToFloat(value));
  }
}

}  // namespace

template <typename T>
void DequantizeRows(const WeightView& weight, int64_t row_begin, int64_t row_end, T* out) {
  const int64_t begin = row_begin * weight.in_features, end = row_end * weight.in_features;
  if (weight.spec.format == QuantFormat::kNone) {
    const BFloat16* dense = weight.dense.as<BFloat16>();
    for (int64_t i = begin; i < end; ++i) out[i - begin] = FromBFloat16<T>(dense[i]);
    return;
  }
  const uint8_t* codes = weight.codes.as<uint8_t>();
  const float* book = weight.code_book.as<float>();
  const bool nibbles = CodeBits(weight.spec.format) == 4;
  int64_t i = begin;
  while (i < end) {
    const int64_t block = i / weight.spec.block;
    const int64_t block_end = std::min<int64_t>(end, (block + 1) * weight.spec.block);
    const float scale = WeightScale(weight, block);
    if (nibbles && block_end - i >= 16) {
      // The block's 16 values once, then a look-up an element.
      T values[16];
      for (int code = 0; code < 16; ++code) {
        values[code] = FromBFloat16<T>(ToBFloat16(book[code] * scale));
      }
      for (; i < block_end; ++i) {
        out[i - begin] = values[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15];
      }
      continue;
    }
    for (; i < block_end; ++i) {
      const int code = !nibbles ? codes[i] : i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15;
      out[i - begin] = FromBFloat16<T>(ToBFloat16(book[code] * scale));
    }
  }
}

template void DequantizeRows(const WeightView&, int64_t, int64_t, BFloat16*);
template void DequantizeRows(const WeightView&, int64_t, int64_t, float*);
template void DequantizeRows(const WeightView&, int64_t, int64_t, double*);

}  // namespace lorad::cpu
