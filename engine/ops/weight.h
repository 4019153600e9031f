// A frozen weight matrix as ops see it: 16-bit, or packed k-bit codes with their scales.
// No Abseil, no CUDA: shared by .cc and .cu files.
#ifndef LORAD_ENGINE_OPS_WEIGHT_H_
#define LORAD_ENGINE_OPS_WEIGHT_H_

#include <cstdint>

#include "engine/core/quant_spec.h"
#include "engine/core/tensor_view.h"

namespace lorad {

// W [out_features, in_features], row-major. Not owned; immutable while in use.
//
// format == kNone: `dense` is [out, in] kBF16.
// Otherwise element i of the flattened matrix is
//   value(i) = bf16(code_book[code(i)] * absmax(i / block))        product in fp32, rounded to bf16
// where 4-bit codes are packed two to a byte, the high nibble first (bitsandbytes' order), and
//   absmax(b) = scales[b]                                                          single
//   absmax(b) = nested_code[scales_u8[b]] * nested_scales[b / kNestedBlock] + nested_offset double
//
// `tiled`: the codes and scales_u8 are not in that order but in the one that a device's kernels
// stream (Ops::ArrangeWeight); everything above still says what an element is worth. It exists for
// 4-bit codes in blocks of 64 with double quantisation, out % 16 == 0 and in % 256 == 0. Sixteen
// rows are a strip, 16 rows x 64 columns a tile of 512 bytes, tiles follow one another along the
// columns and then along the strips. With lane = 4 g + t, g in [0, 8), t in [0, 4): bytes
// [16 lane, 16 lane + 8) of a tile are columns [16 t, 16 t + 16) of row g, the next eight bytes
// those of row g + 8, each byte as it was. Scales: for each strip and each four blocks of its
// columns 64 bytes, of which bytes [8 g, 8 g + 4) are the four blocks of row g and [8 g + 4,
// 8 g + 8) those of row g + 8. nested_scales stay where they were.
struct WeightView {
  QuantSpec spec{.format = QuantFormat::kNone, .block = 64, .double_quant = false};
  int64_t out_features = 0;
  int64_t in_features = 0;

  ConstTensorView dense;          // kBF16 [out, in]
  ConstTensorView codes;          // kU8 [ceil(out * in * CodeBits / 8)]
  ConstTensorView code_book;      // kF32 [2^CodeBits]; an int8 code c sits at index c + 128
  ConstTensorView scales;         // kF32 [num_blocks], single quantisation
  ConstTensorView scales_u8;      // kU8 [num_blocks], double quantisation
  ConstTensorView nested_scales;  // kF32 [ceil(num_blocks / kNestedBlock)]
  ConstTensorView nested_code;    // kF32 [256]
  float nested_offset = 0;
  bool tiled = false;

  int64_t num_elements() const { return out_features * in_features; }
  int64_t num_blocks() const { return (num_elements() + spec.block - 1) / spec.block; }
};

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_WEIGHT_H_
