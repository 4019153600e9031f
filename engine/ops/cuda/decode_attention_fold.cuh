// The fold of splits that several blocks have, by way of the workspace. Private to
// decode_attention.cu, which explains it.
#ifndef LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_FOLD_CUH_
#define LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_FOLD_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "engine/ops/cuda/decode_attention.cuh"
#include "engine/ops/cuda/decode_attention_split.cuh"

namespace lorad::cuda {

inline constexpr int kFoldElements = 4, kFoldSplits = 8;  // of a thread at once: loads in flight

// Elements of a group's heads that a thread has: number j is of head HeadOf(j), dimension Dim().
template <int kDims>
struct Elements {
  static constexpr int kHeadsApart = kPagedThreads / kDims;
  __device__ __forceinline__ static int HeadOf(int j) {
    return j * kHeadsApart + static_cast<int>(threadIdx.x) / kDims;
  }
  __device__ __forceinline__ static int Dim() { return static_cast<int>(threadIdx.x) % kDims; }
};

__device__ __forceinline__ void StoreOutput(const DecodeArgs& args, int row, int kv_head, int head,
                                            int dim, float o, float l) {
  const PagedAttentionParams& p = args.p.attention;
  reinterpret_cast<__nv_bfloat16*>(
      p.o)[row * p.o_stride + (kv_head * args.group + head) * args.dims + dim] =
      __float2bfloat16_rn(__fdiv_rn(o, l));
}

// A place in the workspace, and a counter, for a row that ranges share and a kv head: the row's own
// where there are enough, else that of the range in which the row begins, at unit `first`.
__device__ __forceinline__ int PlaceOf(const DecodeArgs& args, const UnitRange& range, int row,
                                       int first, int kv_head) {
  const int64_t owner = (int64_t{first + 1} * range.count + range.total - 1) / range.total - 1;
  return (args.rows <= range.count ? row : static_cast<int>(owner)) * args.kv_heads + kv_head;
}
// Of a split: m and l of each head, [group][2], and o, [group][dims].
__device__ __forceinline__ float* PartialAt(const DecodeArgs& args, int place, int split) {
  return static_cast<float*>(args.p.attention.workspace) +
         (int64_t{place} * args.max_splits + split) * args.group * PartialElements(args.dims);
}

// Folds all splits of a row and kv head, which are in the workspace. `stats`: shared memory.
template <int kDims, int kHeads>
__device__ __forceinline__ void FoldPartials(const DecodeArgs& args, const SplitUnit& unit,
                                             int kv_head, int place, float* stats) {
  using E = Elements<kDims>;
  constexpr int kStatSplits = kPagedWarps * Shared<kDims, kHeads>::kSumStride / 2;
  const int splits = unit.splits(), dim = E::Dim(),
            stride = args.group * PartialElements(args.dims);
  const float* const partials = PartialAt(args, place, 0);
  for (int j0 = 0; j0 * E::kHeadsApart < args.group; j0 += kFoldElements) {
    float m[kFoldElements], l[kFoldElements] = {}, o[kFoldElements] = {};
#pragma unroll
    for (int j = 0; j < kFoldElements; ++j) m[j] = -INFINITY;
    for (int begin = 0; begin < splits; begin += kStatSplits) {
      const int end = min(splits, begin + kStatSplits);
      for (int first = begin; first < end; first += kFoldSplits) {
        float values[kFoldSplits][kFoldElements];
#pragma unroll
        for (int s = 0; s < kFoldSplits; ++s) {
#pragma unroll
          for (int j = 0; j < kFoldElements; ++j) {
            const int head = E::HeadOf(j0 + j);
            if (first + s >= end || head >= args.group || dim >= args.dims) continue;
            values[s][j] = __ldcg(partials + int64_t{first + s} * stride + 2 * args.group +
                                  head * args.dims + dim);
          }
        }
        if (first == begin) {
          __syncthreads();  // those before are done with
          for (int i = threadIdx.x; i < (end - begin) * 2 * args.group; i += kPagedThreads) {
            const int split = i / (2 * args.group);
            stats[i] = __ldcg(partials + int64_t{begin + split} * stride + i % (2 * args.group));
          }
          __syncthreads();
        }
#pragma unroll
        for (int s = 0; s < kFoldSplits; ++s) {
          if (first + s >= end) break;
          const float* of_split = stats + (first + s - begin) * 2 * args.group;
#pragma unroll
          for (int j = 0; j < kFoldElements; ++j) {
            const int head = min(E::HeadOf(j0 + j), args.group - 1);
            const Fold fold = FoldOf(m[j], of_split[2 * head], &m[j]);
            l[j] = Folded(fold, l[j], of_split[2 * head + 1]);
            o[j] = Folded(fold, o[j], values[s][j]);
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kFoldElements; ++j) {
      const int head = E::HeadOf(j0 + j);
      if (head < args.group && dim < args.dims)
        StoreOutput(args, unit.row, kv_head, head, dim, o[j], l[j]);
    }
  }
}

// Says that `count` splits are in the workspace: whether all are now. Waits for the block.
__device__ __forceinline__ bool AreAllThere(const DecodeArgs& args, const SplitUnit& unit,
                                            int place, int count, bool* last) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const uint32_t before = atomicAdd(args.p.counters + place, static_cast<uint32_t>(count));
    *last = before + count == static_cast<uint32_t>(unit.splits());
    if (*last) args.p.counters[place] = 0;
  }
  __syncthreads();
  if (*last) __threadfence();
  return *last;
}

// The fold of a block: in registers and shared memory where a row's splits are all the block's,
// else in the workspace, by whichever block comes last.
template <int kDims, int kHeads>
class BlockFold {
 public:
  using S = Shared<kDims, kHeads>;
  using E = Elements<kDims>;

  // `split_sums`: as WarpSplit::Values leaves them.
  __device__ BlockFold(const DecodeArgs& args, S& shared, const UnitRange& range, int kv_head,
                       float* split_sums)
      : args_(args), shared_(shared), range_(range), kv_head_(kv_head), split_sums_(split_sums) {}

  // At the row's first unit in the range, which is number `index` of all.
  __device__ __forceinline__ void Begin(const SplitUnit& unit, int index) {
    const int first = index - unit.split;
    whole_ = first >= range_.begin && first + unit.splits() <= range_.end;
    if (!whole_) place_ = PlaceOf(args_, range_, unit.row, first, kv_head_);
    count_ = 0;
  }

  // After the barrier that shares the warps' maxima.
  __device__ __forceinline__ void AddMaxima(const SplitUnit& unit) {
    ++count_;
    if (threadIdx.x >= args_.group) return;
    const int head = threadIdx.x;
    float m = shared_.warp_max[0][head];
#pragma unroll
    for (int w = 1; w < kPagedWarps; ++w) m = fmaxf(m, shared_.warp_max[w][head]);
    if (whole_) {
      shared_.folds[head] = FoldOf(shared_.m[head], m, &shared_.m[head]);
    } else {
      PartialAt(args_, place_, unit.split)[2 * head] = m;
    }
  }

  // After the barrier that shares the warps' sums.
  __device__ __forceinline__ void AddSums(const SplitUnit& unit) {
    float* const partial = whole_ ? nullptr : PartialAt(args_, place_, unit.split);
    if (threadIdx.x < args_.group) {
      const int head = threadIdx.x;
      float l = shared_.warp_sum[0][head];
#pragma unroll
      for (int w = 1; w < kPagedWarps; ++w) l += shared_.warp_sum[w][head];
      if (whole_) {
        shared_.l[head] = Folded(shared_.folds[head], shared_.l[head], l);
      } else {
        partial[2 * head + 1] = l;
      }
    }
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      const int head = E::HeadOf(j), dim = E::Dim();
      if (head >= args_.group || dim >= args_.dims) break;
      float sum = split_sums_[head * S::kSumStride + dim];
#pragma unroll
      for (int w = 1; w < kPagedWarps; ++w)
        sum += split_sums_[(w * args_.group + head) * S::kSumStride + dim];
      if (whole_) {
        o_[j] = Folded(shared_.folds[head], unit.split == 0 ? 0.0f : o_[j], sum);
      } else {
        partial[2 * args_.group + head * args_.dims + dim] = sum;
      }
    }
  }

  // After the row's last unit in the range. Waits for the block.
  __device__ __forceinline__ void End(const SplitUnit& unit) {
    if (!whole_) {
      if (AreAllThere(args_, unit, place_, count_, &shared_.last))
        FoldPartials<kDims, kHeads>(args_, unit, kv_head_, place_, split_sums_);
      return;
    }
    __syncthreads();  // shared_.l
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      const int head = E::HeadOf(j), dim = E::Dim();
      if (head >= args_.group || dim >= args_.dims) break;
      StoreOutput(args_, unit.row, kv_head_, head, dim, o_[j], shared_.l[head]);
    }
  }

 private:
  static constexpr int kElements = kHeads / E::kHeadsApart;

  const DecodeArgs& args_;
  S& shared_;
  const UnitRange& range_;
  const int kv_head_;
  float* const split_sums_;
  bool whole_ = false;  // whether the row's splits are all the block's
  int place_ = 0;       // otherwise
  int count_ = 0;       // of its splits so far
  float o_[kElements];  // of the fold
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_FOLD_CUH_
