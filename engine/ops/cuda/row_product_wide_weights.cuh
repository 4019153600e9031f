// Strips of tiled weights as the warps of row_product_wide_tiled.cu have them in registers. Private
// to it.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_WEIGHTS_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_WEIGHTS_CUH_

#include <cstdint>

#include "engine/ops/cuda/row_product_block_scaled.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"
#include "engine/ops/cuda/weight_decode.cuh"

namespace lorad::cuda {

inline constexpr int kBlockColumns = BlockScaled::kBlock, kGroupBlocks = BlockScaled::kBlocks;

// What a byte means, once for each lane, so that no two lanes ever meet in a bank: as a pair of
// codes, and as the code of a scale. An entry has 256 bytes: one instruction puts a byte into an
// offset.
struct WideTables {
  uint32_t pairs_and_scales[256][2][32];
};

// By 512 threads.
__device__ __forceinline__ void FillTables(const PackedWeight& weight, WideTables& tables) {
  const int i = threadIdx.x % 256, kind = threadIdx.x / 256;
  const uint32_t word = kind == 0 ? RoundedPair(__ldg(weight.code_book + (i >> 4)),
                                                __ldg(weight.code_book + (i & 15)))
                                  : __float_as_uint(__ldg(weight.nested_code + i));
  uint4* entry = reinterpret_cast<uint4*>(tables.pairs_and_scales[i][kind]);
#pragma unroll
  for (int j = 0; j < 8; ++j)  // neighbouring threads in different banks
    entry[(j + i) % 8] = make_uint4(word, word, word, word);
}

// The tables as one lane looks into them.
class LaneTables {
 public:
  __device__ __forceinline__ explicit LaneTables(const WideTables& tables) : tables_(tables) {
    // Kept: to the compiler not a function of threadIdx, which it would read again and again.
    asm volatile("shl.b32 %0, %1, 2;\n" : "=r"(lane_offset_) : "r"(threadIdx.x % 32));
  }
  // Two products' fragments of the lane from eight codes of output g and of g + 8.
  __device__ __forceinline__ void Decode(uint32_t low, uint32_t high, uint32_t (&a)[2][4]) const {
#pragma unroll
    for (int byte = 0; byte < 4; ++byte) {
      a[byte / 2][byte % 2 * 2] = LookUp<0>(low, byte);
      a[byte / 2][byte % 2 * 2 + 1] = LookUp<0>(high, byte);
    }
  }
  // absmax of block b of a group, to a rounding.
  __device__ __forceinline__ float ScaleOf(uint32_t codes, int b, float nested_scale,
                                           float nested_offset) const {
    return __fmaf_rn(__uint_as_float(LookUp<1>(codes, b)), nested_scale, nested_offset);
  }

 private:
  template <int kKind>
  __device__ __forceinline__ uint32_t LookUp(uint32_t bytes, int byte) const {
    static_assert(sizeof(tables_.pairs_and_scales[0]) == 256);
    const uint32_t offset = __byte_perm(bytes, lane_offset_, 0x5504 | byte << 4);
    return *reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(&tables_) +
                                              kKind * sizeof(tables_.pairs_and_scales[0][0]) +
                                              offset);
  }

  const WideTables& tables_;
  uint32_t lane_offset_;
};

// Where a lane's weights of a strip lie; one beyond the last is the last.
class Strip {
 public:
  __device__ __forceinline__ Strip(const PackedWeight& weight, int64_t out) : weight_(weight) {
    const int lane = threadIdx.x % 32, g = lane / 4;
    const int64_t last = weight.rows - kTileOuts, first = out < last ? out : last;
    const int64_t blocks = weight.columns / kBlockColumns;
    codes_ = static_cast<const char*>(weight.codes) + first * (weight.columns / 2) + lane * 16;
    scales_ = weight.scales_u8 + first * blocks + g * 8;
    first_block_ = static_cast<uint32_t>((first + g) * blocks);
  }
  // The tile of block b of the group that begins at `column`.
  __device__ __forceinline__ uint4 Codes(uint32_t column, int b) const {
    return LoadOnce16(Tiles(column) + b * kTileBytes);
  }
  // Starts the way of a group into the second-level cache: 16 lanes a line of codes each, one the
  // line of its scales.
  __device__ __forceinline__ void Prefetch(uint32_t column) const {
    constexpr uint32_t kLine = 128, kLines = kGroupBlocks * kTileBytes / kLine;
    const uint32_t lane = threadIdx.x % 32;
    const char* line = lane < kLines ? Tiles(column) + lane * (kLine - 16)
                                     : reinterpret_cast<const char*>(Scales(column));
    if (lane <= kLines) asm volatile("prefetch.global.L2 [%0];\n" ::"l"(line));
  }
  // The codes of a group's scales, of outputs g and g + 8, a byte a block.
  __device__ __forceinline__ uint2 ScaleCodes(uint32_t column) const {
    return __ldg(reinterpret_cast<const uint2*>(Scales(column)));
  }
  // Of output g + 8 r. Neighbouring outputs and groups share them, so that they are near.
  __device__ __forceinline__ float NestedScale(uint32_t column, int r) const {
    const uint32_t block = first_block_ + column / kBlockColumns +
                           r * 8 * static_cast<uint32_t>(weight_.columns / kBlockColumns);
    return __ldg(weight_.nested_scales + (block >> kNestedShift));
  }

 private:
  __device__ __forceinline__ const char* Tiles(uint32_t column) const {
    return codes_ + uint64_t{column} * (kTileOuts / 2);
  }
  __device__ __forceinline__ const uint8_t* Scales(uint32_t column) const {
    return scales_ + column / kBlockColumns * kTileOuts;
  }

  const PackedWeight& weight_;
  const char* codes_;
  const uint8_t* scales_;
  uint32_t first_block_;
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_WEIGHTS_CUH_
