// Products of the tiles of attention_tile.cuh on the tensor cores.
//
// A warp computes kRowTiles * 16 rows of a product: each fragment of the other operand then serves
// kRowTiles instructions. Shared memory delivers a fragment in 4 cycles while two instructions take
// 3, so one row tile is bound by shared memory, and two by the tensor cores.
#ifndef LORAD_ENGINE_OPS_CUDA_ATTENTION_PRODUCT_CUH_
#define LORAD_ENGINE_OPS_CUDA_ATTENTION_PRODUCT_CUH_

#include <cstdint>

#include "engine/ops/cuda/attention_mma.cuh"

namespace lorad::cuda {

// c = A B^T over kDim columns. A: the warp's rows of a tile, kOffsetA bytes behind `a`, the address
// of the first plus RowMajorLane(). B: a tile of 8 * kColumnTiles rows, kOffsetB behind `b`, its
// address plus ColumnMajorLane(). Tiles that lie a constant apart share the addresses' registers.
template <int kDim, int kOffsetA, int kOffsetB, int kRowTiles, int kColumnTiles>
__device__ __forceinline__ void MultiplyTransposed(uint32_t a, uint32_t b,
                                                   float (&c)[kRowTiles][kColumnTiles][4]) {
  static_assert(kColumnTiles % 2 == 0);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) c[m][n][i] = 0.0f;
    }
  }
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    uint32_t rows[kRowTiles][4];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
      LoadMatrices(rows[m], (a ^ (k * 32)) + (kOffsetA + m * 16 * 2 * kDim));
#pragma unroll
    for (int n = 0; n < kColumnTiles; n += 2) {
      uint32_t columns[4];
      LoadMatrices(columns, (b ^ (k * 32)) + (kOffsetB + n * 8 * 2 * kDim));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        MultiplyAdd(c[m][n], rows[m], columns[0], columns[1]);
        MultiplyAdd(c[m][n + 1], rows[m], columns[2], columns[3]);
      }
    }
  }
}

// A product as the left operand of the next: rounded to bf16, and already in place.
template <int kRowTiles, int kInnerTiles>
__device__ __forceinline__ void RoundToOperand(const float (&c)[kRowTiles][kInnerTiles][4],
                                               uint32_t (&a)[kRowTiles][kInnerTiles / 2][4]) {
  static_assert(kInnerTiles % 2 == 0);
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int k = 0; k < kInnerTiles; ++k) {
      a[m][k / 2][k % 2 * 2] = RoundPair(c[m][k][0], c[m][k][1]);
      a[m][k / 2][k % 2 * 2 + 1] = RoundPair(c[m][k][2], c[m][k][3]);
    }
  }
}

// c += A B. B: a tile of 16 * kInnerSteps rows, kOffsetB bytes behind `b`, its address plus
// RowMajorLane(); the columns from first_column on are used.
template <int kDim, int kOffsetB, int kRowTiles, int kInnerSteps, int kColumnTiles>
__device__ __forceinline__ void AddProduct(const uint32_t (&a)[kRowTiles][kInnerSteps][4],
                                           uint32_t b, int first_column,
                                           float (&c)[kRowTiles][kColumnTiles][4]) {
  static_assert(kColumnTiles % 2 == 0);
  b ^= first_column * 2;
#pragma unroll
  for (int k = 0; k < kInnerSteps; ++k) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; n += 2) {
      uint32_t columns[4];
      LoadTransposed(columns, (b ^ (n * 16)) + (kOffsetB + k * 16 * 2 * kDim));
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        MultiplyAdd(c[m][n], a[m][k], columns[0], columns[1]);
        MultiplyAdd(c[m][n + 1], a[m][k], columns[2], columns[3]);
      }
    }
  }
}

// Of a product whose first row is `row` and whose first column is `column`, sets what lies right of
// the diagonal (where rows are queries and columns keys: the future), or left of it, to `value`.
template <bool kRightOfDiagonal, int kRowTiles, int kColumnTiles>
__device__ __forceinline__ void Mask(int row, int column, float value,
                                     float (&c)[kRowTiles][kColumnTiles][4]) {
  const int lane = threadIdx.x % 32;
  const int distance = column + lane % 4 * 2 - (row + lane / 4);  // from the diagonal to the right
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int right = distance + 8 * n + i % 2 - (16 * m + i / 2 * 8);
        if (kRightOfDiagonal ? right > 0 : right < 0) c[m][n][i] = value;
      }
    }
  }
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ATTENTION_PRODUCT_CUH_
