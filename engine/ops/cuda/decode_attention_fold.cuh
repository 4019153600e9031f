// The fold of a row's splits by the blocks that have them. Private to decode_attention.cu, which
// explains it.
#ifndef LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_FOLD_CUH_
#define LORAD_ENGINE_OPS_CUDA_DECODE_ATTENTION_FOLD_CUH_

#include "engine/ops/cuda/decode_attention.cuh"
#include "engine/ops/cuda/decode_attention_partials.cuh"
#include "engine/ops/cuda/decode_attention_split.cuh"

namespace lorad::cuda {

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
