#include "engine/ops/cuda/cudnn_attention_layout.h"

#include <algorithm>
#include <bit>

#include "engine/core/checked_math.h"

namespace lorad::cuda {
namespace {

constexpr int64_t kAlignmentBytes = 256;
// Keys in a tile of scores of cuDNN's kernels for Hopper; of queries it has 64.
constexpr int64_t kTile = 128;
// For what plans need beside gradients of heads and scores: nothing, in all versions measured.
constexpr int64_t kPlanSlackBytes = int64_t{1} << 20;

// Divides a workspace from its beginning on.
class Carver {
 public:
  int64_t Take(int64_t bytes) {
    const int64_t begin = end_;
    end_ += RoundUp(bytes, kAlignmentBytes);
    return begin;
  }
  int64_t end() const { return end_; }

 private:
  int64_t end_ = 0;
};

int64_t Longest(int64_t num_tokens, int64_t max_seqlen) {
  return max_seqlen > 0 ? std::min(max_seqlen, num_tokens) : num_tokens;
}

}  // namespace

int64_t SequenceCountBucket(int64_t sequences) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(sequences)));
}

int64_t SequenceLengthBucket(int64_t tokens) {
  const int64_t power =
      std::max(kTile, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens))));
  const int64_t halfway = power / 4 * 3;
  return tokens <= halfway && halfway % kTile == 0 ? halfway : power;
}

bool IsDense(int64_t num_tokens, int64_t num_sequences, int64_t max_seqlen) {
  const int64_t longest = Longest(num_tokens, max_seqlen);
  // None is longer than the longest: if they fill this product, all are as long.
  return num_sequences * longest == num_tokens && longest % kTile == 0;
}

CudnnAttentionProblem ForwardProblem(const AttentionForwardParams& params, int64_t max_seqlen) {
  CudnnAttentionProblem problem;
  const int64_t longest = Longest(params.num_tokens, max_seqlen);
  problem.ragged = !IsDense(params.num_tokens, params.num_sequences, max_seqlen);
  problem.sequences =
      problem.ragged ? SequenceCountBucket(params.num_sequences) : params.num_sequences;
  problem.seqlen = problem.ragged ? SequenceLengthBucket(longest) : longest;
  problem.heads = params.num_heads;
  problem.kv_heads = params.num_kv_heads;
  problem.head_dim = params.head_dim;
  problem.q_stride = params.q_stride;
  problem.k_stride = params.k_stride;
  problem.v_stride = params.v_stride;
  problem.o_stride = params.o_stride;
  return problem;
}

CudnnAttentionProblem BackwardProblem(const AttentionBackwardParams& params, bool deterministic,
                                      int64_t slices) {
  CudnnAttentionProblem problem;
  problem.backward = true;
  problem.deterministic = deterministic;
  problem.sequences = params.num_sequences;
  problem.seqlen = params.num_tokens / params.num_sequences;
  problem.heads = params.num_heads / slices;
  problem.kv_heads = params.num_kv_heads / slices;
  problem.head_dim = params.head_dim;
  problem.q_stride = params.q_stride;
  problem.k_stride = params.k_stride;
  problem.v_stride = params.v_stride;
  problem.o_stride = params.o_stride;
  problem.dout_stride = params.dout_stride;
  problem.dq_stride = params.dq_stride;
  problem.dk_stride = params.dk_stride;
  problem.dv_stride = params.dv_stride;
  return problem;
}

int64_t ScoreBytes(const CudnnAttentionProblem& problem) {
  if (!problem.backward || !problem.deterministic) return 0;
  return problem.sequences * problem.heads * problem.seqlen * problem.seqlen *
         int64_t{sizeof(BFloat16)};
}

CudnnAttentionLayout::CudnnAttentionLayout(const CudnnAttentionProblem& problem, int64_t num_tokens,
                                           int64_t slices) {
  constexpr int64_t kFloat = sizeof(float), kInt = sizeof(int32_t);
  Carver carver;
  const int64_t rows = num_tokens * problem.heads;  // of a slice
  statistics_slice = RoundUp(rows, kAlignmentBytes / kFloat);
  statistics = carver.Take(slices * statistics_slice * kFloat);
  lengths = offsets = delta = dq_sum = carver.end();
  if (problem.ragged) {
    offsets_pitch = RoundUp(problem.sequences + 1, kAlignmentBytes / kInt);
    lengths = carver.Take(problem.sequences * kInt);
    offsets = carver.Take(kNumRaggedTensors * offsets_pitch * kInt);
  }
  if (problem.backward) delta = carver.Take(rows * kFloat);
  if (problem.has_dq_sum()) dq_sum = carver.Take(rows * problem.head_dim * kFloat);
  plan = carver.end();
}

int64_t CudnnForwardWorkspaceBytes(const AttentionForwardParams& params) {
  // A dense problem takes less.
  CudnnAttentionProblem problem;
  problem.ragged = true;
  problem.sequences = SequenceCountBucket(params.num_sequences);
  problem.heads = params.num_heads;
  return CudnnAttentionLayout(problem, params.num_tokens, 1).plan + kPlanSlackBytes;
}

int64_t CudnnBackwardWorkspaceBytes(const AttentionBackwardParams& params, int64_t max_seqlen,
                                    bool deterministic, int64_t score_bytes) {
  constexpr int64_t kBFloat16 = sizeof(BFloat16);
  CudnnAttentionProblem problem;
  problem.backward = true;
  problem.deterministic = deterministic;
  problem.heads = params.num_heads;
  problem.head_dim = params.head_dim;
  int64_t bytes = CudnnAttentionLayout(problem, params.num_tokens, 1).plan + kPlanSlackBytes;
  // Slices of heads round up each.
  bytes += params.num_kv_heads * kAlignmentBytes;
  // The plan keeps dk and dv of each query head until they are summed over a group.
  if (params.num_heads > params.num_kv_heads) {
    bytes += 2 * params.num_tokens * params.num_heads * params.head_dim * kBFloat16;
  }
  if (!deterministic) return bytes;
  // Each token against as many keys as the longest sequence may have.
  const int64_t all =
      params.num_tokens * params.num_heads * Longest(params.num_tokens, max_seqlen) * kBFloat16;
  const int64_t one_part = all / params.num_kv_heads;
  return bytes + std::min(all, std::max(score_bytes, std::min(one_part, 2 * score_bytes)));
}

}  // namespace lorad::cuda
