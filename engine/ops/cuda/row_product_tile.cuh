// What the two kernels of row_product.cu and row_product_wide.cu share: their arguments, the
// product of one group of columns, and what becomes of a sum. Private to them.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_TILE_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_TILE_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/attention_mma.cuh"
#include "engine/ops/cuda/row_product.h"
#include "engine/ops/cuda/row_product_weights.cuh"

namespace lorad::cuda {

// Columns are shared out to 8 sums, 256 or 128 at a time (Columns::kGroup): sum s has groups s, s +
// 8,
// ... A result is the 8 sums added in order, whoever computes them.
inline constexpr int kSums = 8;
inline constexpr int kTileOuts = 16;
inline constexpr int kTileRows = 8;
inline constexpr int kMaxRows = 64;  // that a tile has

struct RowProductEntry {
  RowProductTerm term;
  uint32_t first_tile = 0;  // of the launch
  int32_t block_shift = 0;  // log2(elements of a quantisation block)
};

struct RowProductArgs {
  RowProductEntry entries[kMaxRowProductTerms];
  int count = 0;
  bool gated = false;  // two entries, gate and up; see RowProduct
  const __nv_bfloat16* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  uint32_t passes = 0;  // over the rows
  uint32_t tiles = 0;
};

// All of its weights are regular.
inline bool IsRegular(const RowProductArgs& args) {
  for (int i = 0; i < args.count; ++i) {
    if (!IsRegular(args.entries[i].term.weight)) return false;
  }
  return true;
}

// The kernel for more than 16 rows over weights that IsFast says yes to; sets first_tile, passes
// and tiles.
cudaError_t LaunchWideRowProduct(RowProductArgs& args, const RowProductScratch& scratch,
                                 cudaStream_t stream);

// Multiprocessors of the current device; all devices of a process are taken to be alike.
inline int Multiprocessors() {
  static const int count = [] {
    int device = 0, processors = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return 1;
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    return processors > 0 ? processors : 1;
  }();
  return count;
}

// The 16 x 16 fragments of two products, from chunk i of a lane's codes.
struct WeightFragments {
  uint32_t first[4], second[4];
};
template <typename Lane>
__device__ __forceinline__ WeightFragments
DecodeFragments(const Lane& lane, int i, const DecodeTables<Lane::kBits>& tables) {
  const uint4 w0 = DecodeChunk(lane, 0, i, tables), w1 = DecodeChunk(lane, 1, i, tables);
  return {{w0.x, w1.x, w0.y, w1.y}, {w0.z, w1.z, w0.w, w1.w}};
}

// sums += products of the columns that `lanes` hold. load_x(n, i) gives chunk i of row fragment n.
// A chunk is decoded while the one before it is multiplied.
template <int kOutTiles, int kRowTiles, typename Lane, typename LoadX>
__device__ __forceinline__ void MultiplyGroup(const Lane (&lanes)[kOutTiles],
                                              const DecodeTables<Lane::kBits>& tables,
                                              const LoadX& load_x,
                                              float (&sums)[kOutTiles][kRowTiles][4]) {
  WeightFragments next[kOutTiles];
#pragma unroll
  for (int o = 0; o < kOutTiles; ++o) next[o] = DecodeFragments(lanes[o], 0, tables);
#pragma unroll
  for (int i = 0; i < Lane::kChunks; ++i) {
    WeightFragments weights[kOutTiles];
#pragma unroll
    for (int o = 0; o < kOutTiles; ++o) {
      weights[o] = next[o];
      if (i + 1 < Lane::kChunks) next[o] = DecodeFragments(lanes[o], i + 1, tables);
    }
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
      const uint4 x = load_x(n, i);
#pragma unroll
      for (int o = 0; o < kOutTiles; ++o) {
        MultiplyAdd(sums[o][n], weights[o].first, x.x, x.y);
        MultiplyAdd(sums[o][n], weights[o].second, x.z, x.w);
      }
    }
  }
}

// Bias, residual and adapter of one result, in fp32.
__device__ __forceinline__ float Completed(const RowProductTerm& term, int64_t row, int64_t out,
                                           float sum) {
  if (term.bias != nullptr) sum += __ldg(term.bias + out);
  if (term.residual != nullptr) {
    sum += __bfloat162float(
        reinterpret_cast<const __nv_bfloat16*>(term.residual)[row * term.residual_stride + out]);
  }
  return sum;
}
__device__ __forceinline__ void StoreResult(const RowProductTerm& term, int64_t row, int64_t out,
                                            float value) {
  reinterpret_cast<__nv_bfloat16*>(term.y)[row * term.y_stride + out] = __float2bfloat16_rn(value);
}

// silu(gate) * up of two results, which are rounded first as they are where they are stored.
__device__ __forceinline__ float Gated(float gate, float up) {
  const float g = __bfloat162float(__float2bfloat16_rn(gate));
  const float u = __bfloat162float(__float2bfloat16_rn(up));
  return g / (1.0f + __expf(-g)) * u;
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_TILE_CUH_
