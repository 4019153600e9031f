// Which k-bit format a weight is stored in. No Abseil, no CUDA: shared by .cc and .cu files.
// Formats: Dettmers et al., "QLoRA", 2023, section 3 (nf4, double quantisation); bitsandbytes
// (fp4).
#ifndef LORAD_ENGINE_CORE_QUANT_SPEC_H_
#define LORAD_ENGINE_CORE_QUANT_SPEC_H_

#include <cstdint>

namespace lorad {

enum class QuantFormat : uint8_t {
  kNone,  // 16-bit weights
  kNf4,   // 16 quantiles of a normal distribution; bit-compatible with bitsandbytes
  kFp4,   // sign, 2-bit exponent, 1-bit mantissa as bitsandbytes orders the codes
  kInt4,  // signed absmax: code c in [-7, 7], value = c / 7 * absmax
  kInt8,  // signed absmax: code c in [-127, 127], value = c / 127 * absmax
};

struct QuantSpec {
  QuantFormat format = QuantFormat::kNf4;
  int32_t block =
      64;  // elements per absmax, over the flattened row-major tensor; power of two, 32..4096
  bool double_quant =
      true;  // absmax itself in 8 bits: blocks of 256, signed dynamic map, fp32 scale, mean removed

  bool operator==(const QuantSpec&) const = default;
};

// Blocks of the second quantisation.
inline constexpr int32_t kNestedBlock = 256;

// Bits of one packed code: 4 or 8; 16 for kNone.
constexpr int CodeBits(QuantFormat format) {
  return format == QuantFormat::kNone ? 16 : format == QuantFormat::kInt8 ? 8 : 4;
}

}  // namespace lorad

#endif  // LORAD_ENGINE_CORE_QUANT_SPEC_H_
