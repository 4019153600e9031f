// 4-bit weights in whole blocks, as nearly all 4-bit models have them: blocks of 64, double
// quantisation, columns in multiples of 256. A product is taken with bf16(code), and a block's sum
// is multiplied by its absmax in fp32: one look-up for two weights and no arithmetic. bf16(code) *
// absmax and the definition's bf16(code * absmax) are each within 2^-9 of code * absmax,
// relatively. Pair tables: Guo et al., "FLUTE", 2024. Private to row_product*.cu, which explain the
// order of columns.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_BLOCK_SCALED_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_BLOCK_SCALED_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/row_product_tile.cuh"
#include "engine/ops/cuda/weight_decode.cuh"

namespace lorad::cuda {

struct BlockScaled {
  static constexpr int kBits = 4;
  static constexpr int kBlock = 64;
  static constexpr int kBlocks = 4;  // of a group
  static constexpr int kGroup = kBlocks * kBlock;
  static constexpr int kChunks = kGroup / (4 * kChunk);
  // Where chunk i of lane position t begins: a block is 16 columns of each position.
  static __device__ __forceinline__ int OfChunk(int i, int t) {
    return i / 2 * kBlock + t * (2 * kChunk) + i % 2 * kChunk;
  }

  // Both values of a byte, once for each lane, so that no two lanes ever meet in a bank.
  struct Tables {
    uint32_t pairs[256][32];
    float nested_code[256];
  };
  // What a lane loads of a group.
  struct Lane {
    uint2 codes[2][kBlocks];
    uint32_t scale_codes[2];  // of the blocks, a byte each
    float nested_scales[2];
  };
  // Of the group of `row` that begins at `column`.
  static __device__ __forceinline__ int64_t FirstBlock(const PackedWeight& weight, int64_t row,
                                                       int column) {
    return row * (weight.columns / kBlock) + column / kBlock;
  }
};

inline bool IsBlockScaled(const PackedWeight& weight) {
  return weight.bits == 4 && weight.block == BlockScaled::kBlock && weight.scales_u8 != nullptr &&
         weight.columns % BlockScaled::kGroup == 0 &&
         weight.rows * (weight.columns / BlockScaled::kBlock) <= UINT32_MAX;
}

// By the first 256 threads of a block; others see them after a barrier.
__device__ __forceinline__ void FillTables(const PackedWeight& weight,
                                           BlockScaled::Tables& tables) {
  const int i = threadIdx.x;
  if (i >= 256) return;
  const uint32_t pair =
      RoundedPair(__ldg(weight.code_book + (i >> 4)), __ldg(weight.code_book + (i & 15)));
  uint4* entry = reinterpret_cast<uint4*>(tables.pairs[i]);
#pragma unroll
  for (int j = 0; j < 8; ++j)  // neighbouring threads in different banks
    entry[(j + i) % 8] = make_uint4(pair, pair, pair, pair);
  tables.nested_code[i] = __ldg(weight.nested_code + i);
}

// Sixteen outputs of a weight that need not be aligned, from `out` on; those beyond the last are
// read as the last.
class BlockScaledRows {
 public:
  __device__ __forceinline__ BlockScaledRows(const PackedWeight& weight, int /*block_shift*/,
                                             int64_t out, int g)
      : weight_(&weight) {
    const int64_t last = weight.rows - 1;
#pragma unroll
    for (int r = 0; r < 2; ++r) row_[r] = out + g + 8 * r < last ? out + g + 8 * r : last;
  }

  // One group. Its blocks share a nested scale.
  __device__ __forceinline__ void Load(int column, int t, BlockScaled::Lane& lane) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const char* codes = static_cast<const char*>(weight_->codes);
#pragma unroll
      for (int b = 0; b < BlockScaled::kBlocks; ++b) {
        const int c = column + b * BlockScaled::kBlock + t * 2 * kChunk;
        const char* from = codes + (weight_->tiled ? TiledCodes(weight_->columns, row_[r], c)
                                                   : row_[r] * (weight_->columns / 2) + c / 2);
        lane.codes[r][b] = make_uint2(LoadBytes(from), LoadBytes(from + 4));
      }
      const int64_t block = BlockScaled::FirstBlock(*weight_, row_[r], column);
      const int64_t place =
          weight_->tiled ? TiledScale(weight_->columns, row_[r], column / BlockScaled::kBlock)
                         : block;
      lane.scale_codes[r] = LoadBytes(reinterpret_cast<const char*>(weight_->scales_u8 + place));
      lane.nested_scales[r] = __ldg(weight_->nested_scales + (block >> kNestedShift));
    }
  }

 private:
  static __device__ __forceinline__ uint32_t LoadBytes(const char* from) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) word |= uint32_t{static_cast<uint8_t>(__ldg(from + i))} << 8 * i;
    return word;
  }

  const PackedWeight* weight_;
  int64_t row_[2];
};

// absmax of block b, to a rounding, from the codes of a group's blocks.
__device__ __forceinline__ float ScaleOf(uint32_t codes, int b, float nested_scale,
                                         float nested_offset, const BlockScaled::Tables& tables) {
  const uint32_t offset = (codes >> 8 * b & 255) * sizeof(float);
  const float code =
      *reinterpret_cast<const float*>(reinterpret_cast<const char*>(tables.nested_code) + offset);
  return __fmaf_rn(code, nested_scale, nested_offset);
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_BLOCK_SCALED_CUH_
