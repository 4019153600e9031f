// Results of splits where several blocks have a row's. Private to decode_attention*.cu, which
// explain it.
#ifndef LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_PARTIALS_CUH_
#define LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_PARTIALS_CUH_

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

// A split's m, l and o from its warps' maxima and sums, where `partial` is as PartialAt has it.
// KeepMaxima after the barrier that shares the maxima, KeepSums after that of the sums;
// `split_sums`: as WarpSplit::Values leaves them.
template <typename S>
__device__ __forceinline__ float MaximumOf(const S& shared, int head) {
  float m = shared.warp_max[0][head];
#pragma unroll
  for (int w = 1; w < kPagedWarps; ++w) m = fmaxf(m, shared.warp_max[w][head]);
  return m;
}
template <typename S>
__device__ __forceinline__ float SumOf(const S& shared, int head) {
  float l = shared.warp_sum[0][head];
#pragma unroll
  for (int w = 1; w < kPagedWarps; ++w) l += shared.warp_sum[w][head];
  return l;
}
template <typename S>
__device__ __forceinline__ float OutputSum(const DecodeArgs& args, const float* split_sums,
                                           int head, int dim) {
  float sum = split_sums[head * S::kSumStride + dim];
#pragma unroll
  for (int w = 1; w < kPagedWarps; ++w)
    sum += split_sums[(w * args.group + head) * S::kSumStride + dim];
  return sum;
}
template <typename S>
__device__ __forceinline__ void KeepMaxima(const DecodeArgs& args, const S& shared,
                                           float* partial) {
  const int head = threadIdx.x;
  if (head < args.group) partial[2 * head] = MaximumOf(shared, head);
}
template <int kDims, int kHeads>
__device__ __forceinline__ void KeepSums(const DecodeArgs& args,
                                         const Shared<kDims, kHeads>& shared,
                                         const float* split_sums, float* partial) {
  using E = Elements<kDims>;
  if (threadIdx.x < args.group) partial[2 * threadIdx.x + 1] = SumOf(shared, threadIdx.x);
#pragma unroll
  for (int j = 0; j < kHeads / E::kHeadsApart; ++j) {
    const int head = E::HeadOf(j), dim = E::Dim();
    if (head >= args.group || dim >= args.dims) break;
    partial[2 * args.group + head * args.dims + dim] =
        OutputSum<Shared<kDims, kHeads>>(args, split_sums, head, dim);
  }
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

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_PARTIALS_CUH_
