// What the attention kernels share: which tile of which sequence a block takes, tiles of rows in
// shared memory, and products of such tiles on the tensor cores.
//
// A tile holds rows of kDim bf16 (64, 128 or 256: head_dim rounded up, the rest zeros) in chunks of
// 16 bytes. Chunk c of row r lies in place c ^ (r % 8) of the row: the 8 rows of a matrix, which
// ldmatrix reads at once, then lie in 8 different groups of 4 banks. A tile's address is a multiple
// of the row's size, so that steps along a row are an exclusive or with a constant.
//
// A warp computes kRowTiles * 16 rows of a product: each fragment of the other operand then serves
// kRowTiles instructions. Shared memory delivers a fragment in 4 cycles while two instructions take
// 3, so one row tile is bound by shared memory, and two by the tensor cores.
#ifndef LORAD_ENGINE_OPS_CUDA_ATTENTION_TILE_CUH_
#define LORAD_ENGINE_OPS_CUDA_ATTENTION_TILE_CUH_

#include <cstdint>

#include "engine/core/dtype.h"
#include "engine/ops/cuda/attention_mma.cuh"

namespace lorad::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

// Rows [begin, begin + tile) of a sequence; none where begin >= length.
struct SequenceTile {
  int first_token;  // of the sequence
  int begin, length;
};

// Upper bound of the slots that FindTile needs.
inline int64_t MaxTiles(int64_t num_tokens, int64_t num_sequences, int tile) {
  return num_tokens / tile + num_sequences;
}

// The tile of slot `slot`. Sequence s takes slots from cu_seqlens[s] / kTile + s on, which leaves
// it at least as many as it has tiles, and at most one over. `last_first` counts a sequence's tiles
// from its end: the block that takes longest should start first. Each warp searches for itself,
// 32 sequences at a time.
template <int kTile>
__device__ __forceinline__ SequenceTile FindTile(const int32_t* cu_seqlens, int64_t num_sequences,
                                                 int64_t slot, bool last_first) {
  const int lane = threadIdx.x % 32;
  int64_t sequence = 0, candidates = num_sequences;
  while (candidates > 1) {
    const int64_t step = (candidates + 31) / 32, at = sequence + lane * step;
    const bool begins = lane * step < candidates && cu_seqlens[at] / kTile + at <= slot;
    const int64_t skip = (__popc(__ballot_sync(0xffffffffu, begins)) - 1) * step;
    sequence += skip;
    candidates = candidates - skip < step ? candidates - skip : step;
  }
  const int first = cu_seqlens[sequence], length = cu_seqlens[sequence + 1] - first;
  const int tiles = (length + kTile - 1) / kTile;
  const int64_t tile = slot - first / kTile - sequence;
  if (tile >= tiles) return {first, length, length};
  return {first, static_cast<int>(last_first ? tiles - 1 - tile : tile) * kTile, length};
}

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

#endif  // LORAD_ENGINE_OPS_CUDA_ATTENTION_TILE_CUH_
