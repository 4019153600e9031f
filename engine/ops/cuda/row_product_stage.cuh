// A group of columns of a warp's outputs in shared memory, for 4-bit weights in whole blocks.
// Private to row_product_wide.cu.
//
// Copies are of 16 bytes; within a row of 128 bytes the four blocks are exchanged by the row's
// number, so that the 16 lanes of half a warp read 4 rows, 8 bytes each, without meeting in a bank.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_STAGE_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_STAGE_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/row_product_block_multiply.cuh"
#include "engine/ops/cuda/row_product_block_scaled.cuh"

namespace lorad::cuda {

// The scales of scales are read when they are wanted: neighbouring outputs share them, so that the
// first-level cache has them.
template <int kOuts>
class Stage {
 public:
  // Starts a warp's copies of the outputs from `out` on; those beyond the last are copies of it.
  // The caller commits them.
  __device__ __forceinline__ void StartCopies(const PackedWeight& weight, int64_t out, int column) {
    const int lane = threadIdx.x % 32, piece = lane % 8;
    const int64_t last = weight.rows - 1;
#pragma unroll
    for (int j = 0; j < kOuts / 4; ++j) {
      const int r = j * 4 + lane / 8;
      const int64_t row = out + r < last ? out + r : last;
      CopyAsync16(Address(&codes_[r][(piece / 2 ^ r % 4) * kBlockBytes + piece % 2 * 16]),
                  static_cast<const char*>(weight.codes) + row * (weight.columns / 2) +
                      (column / 2 + piece * 16),
                  true);
    }
    const int r = lane % kOuts;
    const int64_t row = out + r < last ? out + r : last;
    const int64_t block = BlockScaled::FirstBlock(weight, row, column);
    if (lane < kOuts) CopyAsync4(Address(&scale_codes_[r]), weight.scales_u8 + block);
  }

  // Of lane position t: its 16 columns of block b.
  __device__ __forceinline__ uint2 Codes(int row, int b, int t) const {
    return *reinterpret_cast<const uint2*>(&codes_[row][(b ^ row % 4) * kBlockBytes + t * 8]);
  }
  __device__ __forceinline__ uint32_t ScaleCodes(int row) const { return scale_codes_[row]; }
  // `row` of the stage that was copied from `out` and `column` on.
  __device__ __forceinline__ float NestedScale(const PackedWeight& weight, int64_t out, int column,
                                               int row) const {
    const int64_t last = weight.rows - 1, r = out + row < last ? out + row : last;
    return __ldg(weight.nested_scales +
                 (BlockScaled::FirstBlock(weight, r, column) >> kNestedShift));
  }

 private:
  static constexpr int kRowBytes = BlockScaled::kGroup / 2;
  static constexpr int kBlockBytes = BlockScaled::kBlock / 2;

  static __device__ __forceinline__ uint32_t Address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  }
  static __device__ __forceinline__ void CopyAsync4(uint32_t to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to), "l"(from) : "memory");
  }

  alignas(16) char codes_[kOuts][kRowBytes];
  uint32_t scale_codes_[kOuts];
};

// sums += products of the group in `stage`, which was copied from `out` and `column` on.
template <int kOutTiles, int kRowTiles, typename LoadX>
__device__ __forceinline__ void MultiplyStage(const Stage<16 * kOutTiles>& stage,
                                              const PackedWeight& weight, int64_t out, int column,
                                              int g, int t, const LoadX& load_x,
                                              const BlockScaled::Tables& tables,
                                              float (&sums)[kOutTiles][kRowTiles][4]) {
  uint32_t scale_codes[kOutTiles][2];
  float nested_scales[kOutTiles][2];
#pragma unroll
  for (int o = 0; o < kOutTiles; ++o) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = 16 * o + 8 * r + g;
      scale_codes[o][r] = stage.ScaleCodes(row);
      nested_scales[o][r] = stage.NestedScale(weight, out, column, row);
    }
  }
  const auto codes = [&](int o, int r, int b) { return stage.Codes(16 * o + 8 * r + g, b, t); };
  const auto scale = [&](int o, int r, int b) {
    return ScaleOf(scale_codes[o][r], b, nested_scales[o][r], weight.nested_offset, tables);
  };
  MultiplyBlocks<kOutTiles, kRowTiles>(codes, scale, load_x, PairTable(tables), sums);
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_STAGE_CUH_
