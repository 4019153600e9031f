// x as a block of row_product_wide_tiled.cu multiplies it: groups of columns in shared memory, in
// core matrices. Private to it. V::kRows rows, V::kWarps warps.
#ifndef LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_X_CUH_
#define LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_X_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/row_product_tile.cuh"
#include "engine/ops/cuda/row_product_wide_weights.cuh"
#include "engine/ops/cuda/shared_barrier.cuh"
#include "engine/ops/cuda/wgmma.cuh"

namespace lorad::cuda {

inline constexpr int kProducts = kBlockColumns / 16;  // of a block of columns
inline constexpr int kCores = 2 * kProducts;          // its core matrices, for 8 rows

// A group of columns of x, in core matrices.
template <int kRows>
struct XGroup {
  static constexpr int kCoreStride = kRows * 16;  // from 8 columns to the next
  static constexpr int kBlockBytes = kCores * kCoreStride;
  alignas(128) unsigned char blocks[kGroupBlocks][kBlockBytes];
};

// A warp's part of a group of x: 8 rows of one block of columns, kParts times. A lane loads a chunk
// of each of two rows, so that a load is of whole lines, and stores their words one by one; lanes
// of second halves the other row first, so that the warp's stores fill 8 rows x 16 bytes and do not
// meet in a bank. Rows beyond the last are copies of it.
template <typename V>
class XPart {
 public:
  static constexpr int kParts = V::kRows * kGroupBlocks / (V::kWarps * kTileRows);
  using Group = XGroup<V::kRows>;

  __device__ __forceinline__ XPart(const RowProductArgs& args, int64_t first_row) : args_(args) {
    constexpr int kBlockWarps = V::kWarps / kGroupBlocks;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int block = warp / kBlockWarps, fragment = warp % kBlockWarps * kParts;
    const int row = lane / 8, t = lane / 2 % 4, half = lane % 2;
    from_ = args.x + first_row * args.x_stride + block * kBlockColumns + lane % 8 * kChunk;
    row_ = fragment * kTileRows + row;
    const int64_t last = args.rows - 1 - first_row;
    last_ = static_cast<int>(last < V::kRows ? last : V::kRows);
    to_ = block * Group::kBlockBytes + half * (kCores / 2) * Group::kCoreStride +
          fragment * kCoreBytes + (row + kOtherRow * half) * 16 + t * 4;
    swap_ = half != 0;
  }
  __device__ __forceinline__ void Load(int column, int part) {
    const __nv_bfloat16* from = from_ + column;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = row_ + part * kTileRows + r * kOtherRow;
      rows_[r] =
          *reinterpret_cast<const uint4*>(from + (row < last_ ? row : last_) * args_.x_stride);
    }
  }
  __device__ __forceinline__ void Store(int part, Group& group) const {
    const uint4 first = swap_ ? rows_[1] : rows_[0], second = swap_ ? rows_[0] : rows_[1];
    unsigned char* x = &group.blocks[0][0];
    unsigned char* to = x + to_ + part * kCoreBytes;
    unsigned char* to_second = x + (to_ ^ kOtherRow * 16) + part * kCoreBytes;
    const uint32_t words[2][4] = {{first.x, first.y, first.z, first.w},
                                  {second.x, second.y, second.z, second.w}};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      *reinterpret_cast<uint32_t*>(to + w * Group::kCoreStride) = words[0][w];
      *reinterpret_cast<uint32_t*>(to_second + w * Group::kCoreStride) = words[1][w];
    }
  }

 private:
  static constexpr int kOtherRow = 4;

  const RowProductArgs& args_;
  const __nv_bfloat16* from_;
  int row_, last_, to_;
  bool swap_;
  uint4 rows_[2];
};

// Groups of x in shared memory, in the order of the products. Every warp places its part of each.
template <typename V>
struct XStages {
  static constexpr int kStages = 3;
  XGroup<V::kRows> groups[kStages];
  SharedBarrier placed[kStages], used[kStages];

  // By one thread, before a barrier of all.
  __device__ __forceinline__ void Init() {
#pragma unroll
    for (int s = 0; s < kStages; ++s) placed[s].Init(V::kWarps), used[s].Init(V::kWarps);
  }
};

// One warp's way through them. While a group is multiplied, two blocks of it after each other, the
// last part of the next and the others of the one after it are placed; each is loaded two blocks
// before.
template <typename V>
class XRing {
 public:
  __device__ __forceinline__ XRing(const RowProductArgs& args, int64_t first_row,
                                   XStages<V>& stages)
      : part_(args, first_row), stages_(stages) {}

  // Before the first group, which begins at `column`.
  __device__ __forceinline__ void Begin(int column) {
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      part_.Load(column, p);
      Place(0, p);
    }
  }
  // And where there is a second.
  __device__ __forceinline__ void BeginSecond(int column) {
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      part_.Load(column, p);
      if (p + 1 < kParts) Place(1, p);
    }
  }

  // The group at hand, when all its parts are there.
  __device__ __forceinline__ uint64_t Wait() {
    stages_.placed[stage_].Wait(round_ & 1);
    return MatrixDescriptor(
        static_cast<uint32_t>(__cvta_generic_to_shared(&stages_.groups[stage_])),
        XGroup<V::kRows>::kCoreStride);
  }
  // After block b's products have begun; the group after the next, if any, begins at `column`.
  __device__ __forceinline__ void Continue(int b, bool has_next, bool has_after, int column) {
    const uint32_t next = stage_ == kStages - 1 ? 0 : stage_ + 1;
    const uint32_t after = stage_ == 0 ? kStages - 1 : stage_ - 1;
    if (b == 1) {
      if (has_next) {
        const uint32_t next_round = next == 0 ? round_ + 1 : round_;
        if (kParts == 1 && next_round > 0) stages_.used[next].Wait((next_round - 1) & 1);
        Place(next, kParts - 1);
      }
      if (has_after) part_.Load(column, 0);
    }
    if (kParts > 1 && b == 3 && has_after) {
      // The stage was used for the group before this one: in this round, or the one before.
      if (after > stage_ ? round_ > 0 : true)
        stages_.used[after].Wait((after > stage_ ? round_ - 1 : round_) & 1);
      Place(after, 0);
      part_.Load(column, 1);
    }
  }
  // The products of the group at hand are done.
  __device__ __forceinline__ void Release() {
    if (is_first_lane_) stages_.used[stage_].Arrive();
  }
  __device__ __forceinline__ void Next() {
    if (++stage_ == kStages) stage_ = 0, ++round_;
  }

 private:
  static constexpr int kParts = XPart<V>::kParts;
  static_assert(kParts <= 2);
  static constexpr uint32_t kStages = XStages<V>::kStages;

  __device__ __forceinline__ void Place(int stage, int part) {
    part_.Store(part, stages_.groups[stage]);
    if (part + 1 < kParts) return;
    FenceStoresForProducts();
    __syncwarp();
    if (is_first_lane_) stages_.placed[stage].Arrive();
  }

  XPart<V> part_;
  XStages<V>& stages_;
  const bool is_first_lane_ = threadIdx.x % 32 == 0;
  uint32_t stage_ = 0, round_ = 0;  // of the group at hand, and how often all stages were used
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ROW_PRODUCT_WIDE_X_CUH_
