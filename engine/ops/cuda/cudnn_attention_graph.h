// The operation graphs of causal grouped-query attention that cuDNN recognises and runs as one
// fused kernel (forward) or a few (backward). What they compute: engine/ops/attention.h.
#ifndef LORAD_ENGINE_OPS_CUDA_CUDNN_ATTENTION_GRAPH_H_
#define LORAD_ENGINE_OPS_CUDA_CUDNN_ATTENTION_GRAPH_H_

#include <compare>
#include <cstdint>
#include <memory>

#include "engine/ops/cuda/cudnn_graph.h"
#include "engine/ops/cuda/cudnn_library.h"

namespace lorad::cuda {

// What the pointers of an execution are for.
enum CudnnAttentionUid : int64_t {
  kUidQ = 1,
  kUidK,
  kUidV,
  kUidO,
  kUidLse,
  kUidDout,
  kUidDq,
  kUidDk,
  kUidDv,
  kUidDqSum,  // f32, dq's elements without gaps: where the backward pass adds up dq
  kUidDelta,  // f32, like lse: rowsum(dout * o)
  kUidScale,
  kUidMasked,  // minus infinity
  kUidOne,
  kUidQLengths,
  kUidKvLengths,
  kUidOffsets,  // the first of kNumRaggedTensors
};
// Tensors with ragged offsets, in the order of their uids from kUidOffsets on.
enum CudnnRaggedTensor { kRaggedQ, kRaggedK, kRaggedV, kRaggedO, kRaggedLse, kNumRaggedTensors };
constexpr int64_t OffsetsUid(CudnnRaggedTensor of) { return int64_t{kUidOffsets} + int64_t{of}; }
inline constexpr int64_t kNumCudnnAttentionUids = OffsetsUid(kNumRaggedTensors);

// All that an attention graph depends on, and so the key of its plan. Strides are from token to
// token, in elements; a token's heads follow one another. lse and delta lie as [sequence, head,
// token], the only layout of dense statistics that versions before 9.26 read rightly in the
// backward pass; ragged, lse lies as [token, head].
struct CudnnAttentionProblem {
  bool backward = false;
  // Forward: packed sequences of different lengths, up to `seqlen`, found by offsets. Otherwise all
  // have exactly `seqlen` tokens.
  bool ragged = false;
  // Backward: dq is a product with scores that the plan keeps whole in its workspace, rather than a
  // sum that blocks of keys add to in the order in which they happen to end.
  bool deterministic = false;
  int64_t sequences = 0, seqlen = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0, o_stride = 0;
  int64_t dout_stride = 0, dq_stride = 0, dk_stride = 0, dv_stride = 0;

  auto operator<=>(const CudnnAttentionProblem&) const = default;

  int64_t group() const { return heads / kv_heads; }
  // Whether dq is added up in memory that the caller brings.
  bool has_dq_sum() const { return backward && !deterministic; }
};

// Graphs of o, lse = attention(q, k, v) and of its backward pass, not yet finalized. REQUIRES: the
// backward pass is not ragged.
std::unique_ptr<CudnnGraph> AttentionForwardGraph(const CudnnLibrary& library,
                                                  const CudnnAttentionProblem& problem);
std::unique_ptr<CudnnGraph> AttentionBackwardGraph(const CudnnLibrary& library,
                                                   const CudnnAttentionProblem& problem);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_CUDNN_ATTENTION_GRAPH_H_
