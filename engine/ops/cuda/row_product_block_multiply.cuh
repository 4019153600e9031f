// Products with weights of row_product_block_scaled.cuh. Private to row_product*.cu, which explain
// the order of columns.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_BLOCK_MULTIPLY_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_BLOCK_MULTIPLY_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/row_product_block_scaled.cuh"
#include "engine/ops/cuda/row_product_tile.cuh"

namespace lorad::cuda {

// The table of pairs as one lane looks into it. A look-up is three instructions that keep three
// pipes busy: a byte is cut out, multiplied and added to the lane's column, and loaded.
class PairTable {
 public:
  __device__ __forceinline__ explicit PairTable(const BlockScaled::Tables& tables)
      : column_(static_cast<uint32_t>(__cvta_generic_to_shared(tables.pairs)) +
                threadIdx.x % 32 * static_cast<uint32_t>(sizeof(uint32_t))) {
    // Not a constant to the compiler, which would shift and add in two instructions.
    asm volatile("mov.u32 %0, %1;\n" : "=r"(row_bytes_) : "n"(sizeof(tables.pairs[0])));
  }
  // Eight neighbouring codes as bf16, the first in the high half of the lowest byte.
  __device__ __forceinline__ uint4 LookUp(uint32_t codes) const {
    return make_uint4(At<0>(codes), At<1>(codes), At<2>(codes), At<3>(codes));
  }

 private:
  // Not volatile: codes come from memory that is read after the tables' barrier.
  template <int kByte>
  __device__ __forceinline__ uint32_t At(uint32_t codes) const {
    uint32_t address, pair;
    asm("mad.lo.u32 %0, %1, %2, %3;\n"
        : "=r"(address)
        : "r"(__byte_perm(codes, 0, 0x4440 | kByte)), "r"(row_bytes_), "r"(column_));
    asm("ld.shared.u32 %0, [%1];\n" : "=r"(pair) : "r"(address));
    return pair;
  }

  uint32_t column_, row_bytes_;
};

// sums += products of block b of a group. codes(o, r, b) gives the lane's 16 columns of output
// 16 o + g + 8 r, scale(o, r, b) that block's absmax, load_x(n, i) chunk i of row fragment n.
template <int kOutTiles, int kRowTiles, typename Codes, typename Scale, typename LoadX>
__device__ __forceinline__ void MultiplyBlock(int b, const Codes& codes, const Scale& scale,
                                              const LoadX& load_x, const PairTable& table,
                                              float (&sums)[kOutTiles][kRowTiles][4]) {
  constexpr int kTogether =
      kRowTiles < 4 ? kRowTiles : 4;  // chains that do not wait for each other
  WeightFragments weights[kOutTiles][2];
  float scales[kOutTiles][2];
#pragma unroll
  for (int o = 0; o < kOutTiles; ++o) {
    const uint2 low = codes(o, 0, b), high = codes(o, 1, b);
    weights[o][0] = Fragments(table.LookUp(low.x), table.LookUp(high.x));
    weights[o][1] = Fragments(table.LookUp(low.y), table.LookUp(high.y));
    scales[o][0] = scale(o, 0, b);
    scales[o][1] = scale(o, 1, b);
  }
#pragma unroll
  for (int first = 0; first < kRowTiles; first += kTogether) {
    float block[kOutTiles][kTogether][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 x[kTogether];
#pragma unroll
      for (int n = 0; n < kTogether; ++n) x[n] = load_x(first + n, 2 * b + half);
#pragma unroll
      for (int n = 0; n < kTogether; ++n) {
#pragma unroll
        for (int o = 0; o < kOutTiles; ++o)
          MultiplyAdd(block[o][n], weights[o][half].first, x[n].x, x[n].y);
      }
#pragma unroll
      for (int n = 0; n < kTogether; ++n) {
#pragma unroll
        for (int o = 0; o < kOutTiles; ++o)
          MultiplyAdd(block[o][n], weights[o][half].second, x[n].z, x[n].w);
      }
    }
#pragma unroll
    for (int n = 0; n < kTogether; ++n) {
#pragma unroll
      for (int o = 0; o < kOutTiles; ++o) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& sum = sums[o][first + n][i];
          sum = __fmaf_rn(scales[o][i / 2], block[o][n][i], sum);
        }
      }
    }
  }
}

// sums += products of one group.
template <int kOutTiles, int kRowTiles, typename Codes, typename Scale, typename LoadX>
__device__ __forceinline__ void MultiplyBlocks(const Codes& codes, const Scale& scale,
                                               const LoadX& load_x, const PairTable& table,
                                               float (&sums)[kOutTiles][kRowTiles][4]) {
#pragma unroll
  for (int b = 0; b < BlockScaled::kBlocks; ++b)
    MultiplyBlock<kOutTiles, kRowTiles>(b, codes, scale, load_x, table, sums);
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_BLOCK_MULTIPLY_CUH_
