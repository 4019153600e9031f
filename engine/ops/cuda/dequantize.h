// Decoding k-bit weights on the device, by the definition in engine/ops/weight.h, bit for bit.
#ifndef LORAD_ENGINE_OPS_CUDA_DEQUANTIZE_H_
#define LORAD_ENGINE_OPS_CUDA_DEQUANTIZE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"
#include "engine/ops/weight.h"

namespace lorad::cuda {

// q, k, v or gate, up, and one to spare: weights that one launch can decode.
inline constexpr int kMaxDequantizeWeights = 4;

// A weight in device memory and where it goes: its row r becomes row `row_offset` + r of the
// output.
struct PackedWeight {
  const void* codes = nullptr;         // 4 or 8 bits each; bf16 values when bits == 16
  const float* code_book = nullptr;    // [2^bits]
  const float* scales = nullptr;       // single quantisation
  const uint8_t* scales_u8 = nullptr;  // double quantisation; null: single
  const float* nested_scales = nullptr;
  const float* nested_code = nullptr;  // [256]
  float nested_offset = 0;
  int32_t bits = 0;   // 4, 8 or 16
  int32_t block = 0;  // power of two from 32 to 4096
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_offset = 0;
  bool tiled = false;  // codes and scales_u8 in the order that engine/ops/weight.h describes
};

inline PackedWeight ToPackedWeight(const WeightView& weight, int64_t row_offset) {
  PackedWeight packed;
  packed.bits = CodeBits(weight.spec.format);
  packed.block = weight.spec.block;
  packed.rows = weight.out_features;
  packed.columns = weight.in_features;
  packed.row_offset = row_offset;
  if (packed.bits == 16) {
    packed.codes = weight.dense.data;
    return packed;
  }
  packed.codes = weight.codes.data;
  packed.code_book = weight.code_book.as<float>();
  if (!weight.spec.double_quant) {
    packed.scales = weight.scales.as<float>();
    return packed;
  }
  packed.scales_u8 = weight.scales_u8.as<uint8_t>();
  packed.nested_scales = weight.nested_scales.as<float>();
  packed.nested_code = weight.nested_code.as<float>();
  packed.nested_offset = weight.nested_offset;
  packed.tiled = weight.tiled;
  return packed;
}

// out[row_offset + r, c] = value(r, c) for each weight; rows of `out` are `ld` elements apart.
// Elements of `out` outside the weights' rows and columns are not touched. At most
// kMaxDequantizeWeights weights; one launch when all of them are of 4 bits, all tiled, or of 8,
// with columns and `ld` in multiples of 8 and `out` on 16 bytes.
cudaError_t LaunchDequantize(const PackedWeight* weights, int count, BFloat16* out, int64_t ld,
                             cudaStream_t stream);
// The same values in wider types, where tests and exports ask for them.
cudaError_t LaunchDequantize(const PackedWeight& weight, float* out, int64_t ld,
                             cudaStream_t stream);
cudaError_t LaunchDequantize(const PackedWeight& weight, double* out, int64_t ld,
                             cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DEQUANTIZE_H_
