// Encoding weights into k-bit blocks. Decoding is an op (engine/ops/dequantize.h).
#ifndef LORAD_ENGINE_QUANT_QUANT_H_
#define LORAD_ENGINE_QUANT_QUANT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/quant_spec.h"
#include "engine/ops/weight.h"

namespace lorad {

// "nf4", "nf4,block=128", "int8,double_quant=false", "none". kInvalidArgument names the part at
// fault.
absl::StatusOr<QuantSpec> ParseQuantSpec(std::string_view text);
// The inverse; defaults are left out.
std::string FormatQuantSpec(const QuantSpec& spec);
// Block a power of two in [32, 4096].
absl::Status ValidateQuantSpec(const QuantSpec& spec);

// An encoded matrix in host memory; the parts are WeightView's.
struct QuantizedMatrix {
  QuantSpec spec;
  int64_t out_features = 0;
  int64_t in_features = 0;
  std::vector<uint8_t> codes;
  std::vector<float> code_book;
  std::vector<float> scales;         // single quantisation
  std::vector<uint8_t> scales_u8;    // double quantisation
  std::vector<float> nested_scales;  // likewise
  std::vector<float> nested_code;    // likewise
  float nested_offset = 0;

  // Valid while this lives and does not move.
  WeightView View() const;
};

// Encodes values [out_features * in_features], row-major. Bit-compatible with bitsandbytes for nf4
// and fp4: code = number of midpoints between neighbouring book values strictly below value * (1 /
// absmax). REQUIRES: a valid spec, format != kNone.
QuantizedMatrix Quantize(const QuantSpec& spec, int64_t out_features, int64_t in_features,
                         const float* values);

// The second quantisation of a matrix whose `scales` are there: replaces them by scales_u8,
// nested_scales, nested_code and nested_offset. A matrix that is encoded in pieces of whole blocks,
// singly quantised, and then given to this is the same as one encoded at once.
void QuantizeScales(QuantizedMatrix& matrix);

// Bytes that a matrix takes on the device: codes and scales; the code books are shared by a model
// and not counted. kNone: 2 bytes an element.
int64_t QuantizedBytes(const QuantSpec& spec, int64_t out_features, int64_t in_features);

}  // namespace lorad

#endif  // LORAD_ENGINE_QUANT_QUANT_H_
