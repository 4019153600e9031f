// Which part of the decoding step's attention each block has. Private to decode_attention.cu, which
// explains it.
#ifndef LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_CUH_
#define LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_CUH_

#include <cstdint>

#include "engine/ops/cuda/decode_attention.h"
#include "engine/ops/cuda/paged_attention.cuh"

namespace lorad::cuda {

struct DecodeArgs {
  DecodeAttentionParams p;
  int rows = 0, kv_heads = 0, dims = 0;
  unsigned page_tokens = 0;
  int group = 0;  // query heads of a kv head
  int max_splits = 0;
  float log2_scale = 0;     // scale * log2(e)
  bool whole_rows = false;  // no row is shared by ranges
};

// One split of the context of a row.
struct SplitUnit {
  int row, split;
  int position;  // of the row

  __device__ __forceinline__ int splits() const { return position / kSplitKeys + 1; }
  __device__ __forceinline__ void Advance(const DecodeArgs& args) {
    if (++split < splits()) return;
    split = 0;
    if (++row < args.rows) position = __ldg(args.p.attention.context_lens + row) - 1;
  }
};

// All units in order of row and split, cut into equal ranges. A block has one range and one kv
// head; the blocks of a range follow one another, so that they run at the same time.
struct UnitRange {
  int index, count;       // of the range, and of all
  int begin, end, total;  // units
  SplitUnit first;
};
struct RangeSearch {
  int warp_splits[kPagedWarps];
  SplitUnit first, after;
};

// Where unit `index` is, if it is among rows [begin, end), before which there are `before` units.
__device__ __forceinline__ void LocateUnit(const DecodeArgs& args, int index, int begin, int end,
                                           int before, SplitUnit* found) {
  for (int row = begin; row < end; ++row) {
    const int position = __ldg(args.p.attention.context_lens + row) - 1;
    const int place = index - before, splits = position / kSplitKeys + 1;
    if (place < 0) return;
    before += splits;
    if (place < splits) *found = {row, place, position};
  }
}

// The block's range. Waits for the block.
__device__ __forceinline__ UnitRange FindRange(const DecodeArgs& args, RangeSearch& search) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, thread = threadIdx.x;
  const int begin_row = static_cast<int>(int64_t{thread} * args.rows / kPagedThreads);
  const int end_row = static_cast<int>(int64_t{thread + 1} * args.rows / kPagedThreads);
  int own = 0;
  for (int row = begin_row; row < end_row; ++row)
    own += (__ldg(args.p.attention.context_lens + row) - 1) / kSplitKeys + 1;
  int before = own;  // and own, within the warp
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int left = __shfl_up_sync(0xffffffffu, before, step);
    if (lane >= step) before += left;
  }
  if (lane == 31) search.warp_splits[warp] = before;
  __syncthreads();
  UnitRange range;
  range.total = 0;
#pragma unroll
  for (int w = 0; w < kPagedWarps; ++w) {
    if (w == warp) before += range.total;
    range.total += search.warp_splits[w];
  }
  before -= own;
  range.index = static_cast<int>(blockIdx.x) / args.kv_heads;
  range.count = static_cast<int>(gridDim.x) / args.kv_heads;
  range.begin = static_cast<int>(int64_t{range.index} * range.total / range.count);
  range.end = static_cast<int>(int64_t{range.index + 1} * range.total / range.count);
  LocateUnit(args, range.begin, begin_row, end_row, before, &search.first);
  if (args.whole_rows) LocateUnit(args, range.end, begin_row, end_row, before, &search.after);
  __syncthreads();
  range.first = search.first;
  if (args.whole_rows) {
    if (range.begin < range.total) range.begin -= search.first.split;
    if (range.end < range.total) range.end -= search.after.split;
    range.first.split = 0;
  }
  return range;
}

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_CUH_
