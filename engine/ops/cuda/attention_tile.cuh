// Tiles of rows in shared memory, for the attention kernels: how they lie there, into them and out.
//
// A tile holds rows of kDim bf16 (64, 128 or 256: head_dim rounded up, the rest zeros) in chunks of
// 16 bytes. Chunk c of row r lies in place c ^ (r % 8) of the row: the 8 rows of a matrix, which
// ldmatrix reads at once, then lie in 8 different groups of 4 banks. A tile's address is a multiple
// of the row's size, so that steps along a row are an exclusive or with a constant.
#ifndef LORAD_ENGINE_OPS_CUDA_ATTENTION_TILE_CUH_
#define LORAD_ENGINE_OPS_CUDA_ATTENTION_TILE_CUH_

#include <cstdint>

#include "engine/core/dtype.h"
#include "engine/ops/cuda/attention_mma.cuh"

namespace lorad::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

// `value`, but what depends on it is computed here, and not ahead of a loop around it: there the
// addresses would wait in registers that the sums need.
__device__ __forceinline__ uint32_t Here(uint32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}
__device__ __forceinline__ int64_t Here(int64_t value) {
  asm volatile("" : "+l"(value));
  return value;
}

template <int kDim>
__device__ __forceinline__ uint32_t TileOffset(int row, int chunk) {
  return static_cast<uint32_t>(row * (2 * kDim) + ((chunk ^ (row % 8)) << 4));
}
// Where in a tile a lane points ldmatrix: at 16 rows by 2 chunks, in the order of A fragments,
// which transposed is that of two B fragments side by side ...
template <int kDim>
__device__ __forceinline__ uint32_t RowMajorLane() {
  const int lane = threadIdx.x % 32;
  return TileOffset<kDim>(lane % 16, lane / 16);
}
// ... and at the two B fragments of the product with the transpose of 16 rows by 2 chunks.
template <int kDim>
__device__ __forceinline__ uint32_t ColumnMajorLane() {
  const int lane = threadIdx.x % 32;
  return TileOffset<kDim>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

// Starts loading kRows rows of a head, `stride` elements apart; rows from `rows` on and columns
// from head_dim on become zeros. REQUIRES: 16-byte alignment and head_dim % 8 == 0 if `aligned`.
template <int kThreads, int kRows, int kDim>
__device__ __forceinline__ void LoadTile(uint32_t tile, const BFloat16* from, int64_t stride,
                                         int rows, int head_dim, bool aligned) {
  constexpr int kChunks = kDim / 8, kStep = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && kRows % kStep == 0);
  const int thread = Here(threadIdx.x);
  stride = Here(stride);
  const int first = thread / kChunks, chunk = thread % kChunks;
  const BFloat16* source = from + first * stride + chunk * 8;
  if (aligned) {
    const bool inside = chunk * 8 < head_dim;
#pragma unroll
    for (int i = 0; i < kRows; i += kStep, source += kStep * stride) {
      CopyAsync16(tile + TileOffset<kDim>(first + i, chunk), source, inside && first + i < rows);
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kRows; i += kStep, source += kStep * stride) {
    uint32_t words[4] = {};
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (first + i < rows && chunk * 8 + e < head_dim) {
        words[e / 2] |= static_cast<uint32_t>(source[e].bits) << (e % 2 * 16);
      }
    }
    StoreShared(tile + TileOffset<kDim>(first + i, chunk),
                make_uint4(words[0], words[1], words[2], words[3]));
  }
}

// Rounds a warp's product to bf16 and writes its rows below `rows` to `to`, by way of `tile`, the
// warp's own rows of a tile that nobody needs any more. The product's columns are the head's from
// first_column on; those from head_dim on are not written.
template <int kDim, int kRowTiles, int kColumnTiles>
__device__ __forceinline__ void StoreRows(const float (&c)[kRowTiles][kColumnTiles][4],
                                          uint32_t tile, int first_column, BFloat16* to,
                                          int64_t stride, int rows, int head_dim, bool aligned) {
  const int lane = threadIdx.x % 32, first_chunk = first_column / 8;
  __syncwarp();  // other lanes have read what this one overwrites
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      const uint32_t at =
          tile + TileOffset<kDim>(16 * m + lane / 4, first_chunk + n) + lane % 4 * 4;
      StoreShared(at, RoundPair(c[m][n][0], c[m][n][1]));
      StoreShared(at + 8 * 2 * kDim, RoundPair(c[m][n][2], c[m][n][3]));
    }
  }
  __syncwarp();
#pragma unroll 1
  for (int i = lane; i < 16 * kRowTiles * kColumnTiles; i += 32) {
    const int row = i / kColumnTiles, column = (first_chunk + i % kColumnTiles) * 8;
    if (row >= rows || column >= head_dim) continue;
    const uint4 values = LoadShared16(tile + TileOffset<kDim>(row, column / 8));
    BFloat16* place = to + row * stride + column;
    if (aligned) {
      *reinterpret_cast<uint4*>(place) = values;
      continue;
    }
    const uint32_t words[4] = {values.x, values.y, values.z, values.w};
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (column + e < head_dim)
        place[e].bits = static_cast<uint16_t>(words[e / 2] >> (e % 2 * 16));
    }
  }
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ATTENTION_TILE_CUH_
