// Packed weights in registers, by the definition in engine/ops/weight.h, bit for bit.
#ifndef LORAD_ENGINE_OPS_CUDA_WEIGHT_DECODE_CUH_
#define LORAD_ENGINE_OPS_CUDA_WEIGHT_DECODE_CUH_

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>

#include "engine/ops/cuda/dequantize.h"

namespace lorad::cuda {

inline constexpr int kBookLanes = 32;   // copies of the 4-bit book: a bank for each lane of a warp
inline constexpr int kNestedShift = 8;  // log2(kNestedBlock)
static_assert(1 << kNestedShift == kNestedBlock);

// Where things of a tiled weight of so many columns lie (WeightView::tiled in engine/ops/weight.h),
// in bytes from the start of its codes or scales_u8: the byte of (row, column), whose neighbours up
// to the next multiple of 16 columns follow it; the scale of a row's block, likewise up to the next
// multiple of 4 blocks.
inline constexpr int kStripRows = 16;
inline constexpr int kTileColumns = 64;
inline constexpr int kTileBytes = kStripRows * kTileColumns / 2;
__host__ __device__ __forceinline__ int64_t TiledCodes(int64_t columns, int64_t row,
                                                       int64_t column) {
  const int64_t tile = row / kStripRows * (columns / kTileColumns) + column / kTileColumns;
  const int r = static_cast<int>(row % kStripRows), c = static_cast<int>(column % kTileColumns);
  return tile * kTileBytes + (r % 8 * 4 + c / 16) * 16 + r / 8 * 8 + c % 16 / 2;
}
__host__ __device__ __forceinline__ int64_t TiledScale(int64_t columns, int64_t row,
                                                       int64_t block) {
  const int64_t group = row / kStripRows * (columns / (4 * kTileColumns)) + block / 4;
  const int r = static_cast<int>(row % kStripRows);
  return group * (4 * kStripRows) + r % 8 * 8 + r / 8 * 4 + block % 4;
}

// absmax of a block that is quantised itself; the product is rounded before the sum.
__device__ __forceinline__ float NestedScale(float code, float scale, float offset) {
  return __fadd_rn(__fmul_rn(code, scale), offset);
}

// Two values rounded to bf16, the first in the lower half.
__device__ __forceinline__ uint32_t RoundedPair(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

// Eight neighbouring weights of one block. `book`: entry e at e * kBookLanes for 4-bit codes, so
// that no two lanes ever meet in a bank; at e for 8-bit codes.
__device__ __forceinline__ uint4 DecodeEight(uint32_t codes, const float* book, float scale) {
  uint32_t pairs[4];
#pragma unroll
  for (int byte = 0; byte < 4; ++byte) {
    const uint32_t high = (codes >> (8 * byte + 4)) & 15, low = (codes >> (8 * byte)) & 15;
    pairs[byte] = RoundedPair(__fmul_rn(book[high * kBookLanes], scale),
                              __fmul_rn(book[low * kBookLanes], scale));
  }
  return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}
__device__ __forceinline__ uint4 DecodeEight(uint2 codes, const float* book, float scale) {
  uint32_t pairs[4];
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const uint32_t bytes = (pair < 2 ? codes.x : codes.y) >> (16 * (pair % 2));
    pairs[pair] = RoundedPair(__fmul_rn(book[bytes & 255], scale),
                              __fmul_rn(book[(bytes >> 8) & 255], scale));
  }
  return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// Element i of the flattened weight, as bf16 bits.
__device__ __forceinline__ uint32_t ElementBits(const PackedWeight& weight, int64_t i) {
  if (weight.bits == 16) return __ldg(static_cast<const uint16_t*>(weight.codes) + i);
  const int64_t block = i >> (__ffs(weight.block) - 1);
  float scale;
  if (weight.scales_u8 == nullptr) {
    scale = __ldg(weight.scales + block);
  } else {
    const int64_t place = weight.tiled ? TiledScale(weight.columns, i / weight.columns,
                                                    i % weight.columns / kTileColumns)
                                       : block;
    scale =
        NestedScale(__ldg(weight.nested_code + __ldg(weight.scales_u8 + place)),
                    __ldg(weight.nested_scales + (block >> kNestedShift)), weight.nested_offset);
  }
  const uint8_t* codes = static_cast<const uint8_t*>(weight.codes);
  uint32_t code;
  if (weight.bits == 8) {
    code = __ldg(codes + i);
  } else {
    const int64_t place =
        weight.tiled ? TiledCodes(weight.columns, i / weight.columns, i % weight.columns) : i / 2;
    const uint32_t byte = __ldg(codes + place);
    code = i % 2 == 0 ? byte >> 4 : byte & 15;
  }
  const float value = __fmul_rn(__ldg(weight.code_book + code), scale);
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_WEIGHT_DECODE_CUH_
