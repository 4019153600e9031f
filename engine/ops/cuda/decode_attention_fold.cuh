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
    if (!whole_) {
      KeepMaxima(args_, shared_, PartialAt(args_, place_, unit.split));
    } else if (threadIdx.x < args_.group) {
      const int head = threadIdx.x;
      shared_.folds[head] = FoldOf(shared_.m[head], MaximumOf(shared_, head), &shared_.m[head]);
    }
  }

  // After the barrier that shares the warps' sums.
  __device__ __forceinline__ void AddSums(const SplitUnit& unit) {
    if (!whole_) {
      KeepSums<kDims, kHeads>(args_, shared_, split_sums_, PartialAt(args_, place_, unit.split));
      return;
    }
    if (threadIdx.x < args_.group) {
      const int head = threadIdx.x;
      shared_.l[head] = Folded(shared_.folds[head], shared_.l[head], SumOf(shared_, head));
    }
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      const int head = E::HeadOf(j), dim = E::Dim();
      if (head >= args_.group || dim >= args_.dims) break;
      o_[j] = Folded(shared_.folds[head], unit.split == 0 ? 0.0f : o_[j],
                     OutputSum<S>(args_, split_sums_, head, dim));
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
