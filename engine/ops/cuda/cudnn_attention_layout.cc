#include "engine/ops/cuda/cudnn_attention_layout.h"

#include <algorithm>
#include <bit>

#include "engine/core/checked_math.h"

namespace lorad::cuda {
namespace {

constexpr int64_t kAlignmentBytes = 256;
// The tiles of scores that cuDNN's kernels for Hopper work on, and so round a sequence up to.
constexpr int64_t kQueryTile = 64, kKeyTile = 128;
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

void SetSequences(int64_t num_tokens, int64_t num_sequences, int64_t max_seqlen,
                  CudnnAttentionProblem& problem) {
  int64_t longest = max_seqlen > 0 ? std::min(max_seqlen, num_tokens) : num_tokens;
  // None is longer than the longest: if they fill this product, all are as long.
  problem.ragged = num_sequences * longest != num_tokens || longest % kKeyTile != 0;
  problem.sequences = problem.ragged ? SequenceCountBucket(num_sequences) : num_sequences;
  problem.seqlen = problem.ragged ? SequenceLengthBucket(longest) : longest;
}

}  // namespace

int64_t SequenceCountBucket(int64_t sequences) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(sequences)));
}

int64_t SequenceLengthBucket(int64_t tokens) {
  const int64_t power =
      std::max(kKeyTile, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens))));
  const int64_t halfway = power / 4 * 3;
  return tokens <= halfway && halfway % kKeyTile == 0 ? halfway : power;
}

CudnnAttentionProblem ForwardProblem(const AttentionForwardParams& params, int64_t max_seqlen) {
  CudnnAttentionProblem problem;
  SetSequences(params.num_tokens, params.num_sequences, max_seqlen, problem);
  problem.heads = params.num_heads;
  problem.kv_heads = params.num_kv_heads;
  problem.head_dim = params.head_dim;
  problem.q_stride = params.q_stride;
  problem.k_stride = params.k_stride;
  problem.v_stride = params.v_stride;
  problem.o_stride = params.o_stride;
  return problem;
}

CudnnAttentionProblem BackwardProblem(const AttentionBackwardParams& params, int64_t max_seqlen,
                                      bool deterministic, int64_t slices) {
  CudnnAttentionProblem problem;
  problem.backward = true;
  problem.deterministic = deterministic;
  SetSequences(params.num_tokens, params.num_sequences, max_seqlen, problem);
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
  if (problem.has_head_gradients()) {
    problem.dk_stride = problem.dv_stride = problem.kv_heads * problem.head_dim;
  }
  if (problem.ragged && problem.has_dq_sum()) problem.dq_stride = problem.heads * problem.head_dim;
  return problem;
}

int64_t ScoreBytes(const CudnnAttentionProblem& problem) {
  if (!problem.backward || !problem.deterministic) return 0;
  return problem.sequences * problem.heads * RoundUp(problem.seqlen, kQueryTile) *
         RoundUp(problem.seqlen, kKeyTile) * int64_t{sizeof(BFloat16)};
}

CudnnAttentionLayout::CudnnAttentionLayout(const CudnnAttentionProblem& problem, int64_t num_tokens,
                                           int64_t slices) {
  constexpr int64_t kFloat = sizeof(float), kBFloat16 = sizeof(BFloat16), kInt = sizeof(int32_t);
  Carver carver;
  const int64_t rows = num_tokens * problem.heads;  // of a slice
  statistics_slice = RoundUp(rows, kAlignmentBytes / kFloat);
  statistics = carver.Take(slices * statistics_slice * kFloat);
  lengths = offsets = delta = dq_sum = dq = dk = dv = dk_heads = dv_heads = carver.end();
  if (problem.ragged) {
    offsets_pitch = RoundUp(problem.sequences + 1, kAlignmentBytes / kInt);
    lengths = carver.Take(problem.sequences * kInt);
    offsets = carver.Take(kNumRaggedTensors * offsets_pitch * kInt);
  }
  const int64_t q_elements = rows * problem.head_dim;
  const int64_t k_elements = num_tokens * problem.kv_heads * problem.head_dim;
  if (problem.backward) delta = carver.Take(rows * kFloat);
  if (problem.has_dq_sum()) dq_sum = carver.Take(q_elements * kFloat);
  if (problem.has_dq_sum() && problem.ragged) dq = carver.Take(q_elements * kBFloat16);
  if (problem.has_head_gradients()) {
    dk = carver.Take(k_elements * kBFloat16);
    dv = carver.Take(k_elements * kBFloat16);
    dk_heads = carver.Take(q_elements * kBFloat16);
    dv_heads = carver.Take(q_elements * kBFloat16);
  }
  plan = carver.end();
}

int64_t CudnnWorkspaceBytes(const CudnnAttentionSizes& sizes, int64_t score_bytes) {
  int64_t bytes = 0;
  for (const bool ragged : {false, true}) {
    CudnnAttentionProblem problem;
    problem.backward = sizes.backward;
    problem.deterministic = sizes.deterministic;
    problem.ragged = ragged;
    problem.sequences = SequenceCountBucket(sizes.num_sequences);
    problem.heads = sizes.num_heads;
    problem.kv_heads = sizes.num_kv_heads;
    problem.head_dim = sizes.head_dim;
    int64_t plan = kPlanSlackBytes;
    // Dense gradients of heads lie in the plan's own workspace.
    if (sizes.backward && !ragged && problem.group() > 1) {
      plan += 2 * sizes.num_tokens * sizes.num_heads * sizes.head_dim * int64_t{sizeof(BFloat16)};
    }
    // Twice what one sequence of all tokens needs: buckets are larger than what they hold.
    CudnnAttentionProblem one = problem;
    one.sequences = 1;
    one.seqlen = sizes.num_tokens;
    plan += std::min(score_bytes, 2 * ScoreBytes(one));
    const CudnnAttentionLayout layout(problem, sizes.num_tokens, 1);
    // Slices of heads round up each.
    const int64_t rounding = sizes.num_kv_heads * kAlignmentBytes;
    bytes = std::max(bytes, layout.plan + rounding + plan);
  }
  return bytes;
}

}  // namespace lorad::cuda
