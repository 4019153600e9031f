// cuDNN finds attention by matching these graphs: order, types and layouts matter, and a change
// that means the same may leave no engine. Where a line looks arbitrary, it is what the engines
// of 9.14 and 9.19 accept. Names of dimensions: b sequences, h heads, s tokens of a sequence, d
// head_dim.
#include "engine/ops/cuda/cudnn_attention_graph.h"

#include <array>
#include <utility>

namespace lorad::cuda {
namespace {

constexpr cudnnDataType_t kBf16 = CUDNN_DATA_BFLOAT16;
constexpr cudnnDataType_t kF32 = CUDNN_DATA_FLOAT;

// Adds the tensors of one attention problem to a graph, and the parts that both passes share.
class AttentionGraph {
 public:
  AttentionGraph(const CudnnLibrary& library, const CudnnAttentionProblem& problem)
      : p_(problem), graph_(std::make_unique<CudnnGraph>(library)) {
    if (p_.ragged) {
      const CudnnDims each = {p_.sequences, 1, 1, 1}, ones = {1, 1, 1, 1};
      q_lengths_ = graph_->Real(kUidQLengths, CUDNN_DATA_INT32, each, ones);
      kv_lengths_ = graph_->Real(kUidKvLengths, CUDNN_DATA_INT32, each, ones);
      for (int i = 0; i < kNumRaggedTensors; ++i) {
        offsets_[i] = graph_->Real(OffsetsUid(static_cast<CudnnRaggedTensor>(i)), CUDNN_DATA_INT32,
                                   {p_.sequences + 1, 1, 1, 1}, ones);
      }
    }
    scale_ = graph_->Scalar(kUidScale);
    masked_ = graph_->Scalar(kUidMasked);
  }

  std::unique_ptr<CudnnGraph> Forward();
  std::unique_ptr<CudnnGraph> Backward();

 private:
  // [b, heads, s, d], and the same memory as [b, heads, d, s].
  CudnnTensor Rows(int64_t uid, int64_t heads, int64_t stride,
                   const CudnnTensor* offsets = nullptr) {
    return graph_->Real(uid, kBf16, {p_.sequences, heads, p_.seqlen, p_.head_dim},
                        {p_.seqlen * stride, p_.head_dim, stride, 1}, offsets);
  }
  CudnnTensor Transposed(int64_t uid, int64_t stride, const CudnnTensor* offsets = nullptr) {
    return graph_->Real(uid, kBf16, {p_.sequences, p_.kv_heads, p_.head_dim, p_.seqlen},
                        {p_.seqlen * stride, p_.head_dim, 1, stride}, offsets);
  }
  // One f32 per token and head.
  CudnnTensor RowStatistic(int64_t uid) {
    if (!p_.ragged) return graph_->Real(uid, kF32, RowDims(), RowStrides());
    return graph_->Real(uid, kF32, RowDims(), {p_.heads * p_.seqlen, 1, p_.heads, 1},
                        Offsets(kRaggedLse));
  }
  // Where the sequences of a tensor start; null unless ragged.
  const CudnnTensor* Offsets(CudnnRaggedTensor of) const {
    return p_.ragged ? &offsets_[of] : nullptr;
  }

  CudnnDims ScoreDims() const { return {p_.sequences, p_.heads, p_.seqlen, p_.seqlen}; }
  CudnnDims ScoreStrides() const {
    const int64_t s = p_.seqlen;
    return {p_.heads * s * s, s * s, s, 1};
  }
  CudnnDims RowDims() const { return {p_.sequences, p_.heads, p_.seqlen, 1}; }
  CudnnDims RowStrides() const { return {p_.heads * p_.seqlen, p_.seqlen, 1, 1}; }
  CudnnDims HeadDims() const { return {p_.sequences, p_.heads, p_.seqlen, p_.head_dim}; }
  CudnnDims HeadStrides() const {
    const int64_t rows = p_.seqlen * p_.head_dim;
    return {p_.heads * rows, rows, p_.head_dim, 1};
  }

  CudnnTensor ScaledScores(const CudnnTensor& q, const CudnnTensor& k_transposed);
  CudnnTensor MaskPadding(const CudnnTensor& scores);
  CudnnTensor MaskFuture(const CudnnTensor& scores);
  CudnnTensor Transpose(const CudnnTensor& scores);
  void KeyGradient(const CudnnTensor& weights, const CudnnTensor& rows, int64_t uid,
                   int64_t stride);
  void QueryGradient(const CudnnTensor& score_gradient, const CudnnTensor& k_transposed);

  const CudnnAttentionProblem& p_;
  std::unique_ptr<CudnnGraph> graph_;
  CudnnTensor scale_, masked_;
  CudnnTensor q_lengths_, kv_lengths_;  // these and offsets_: ragged
  std::array<CudnnTensor, kNumRaggedTensors> offsets_;
};

CudnnTensor AttentionGraph::ScaledScores(const CudnnTensor& q, const CudnnTensor& k_transposed) {
  const CudnnTensor scores = graph_->Virtual(kF32, ScoreDims(), ScoreStrides());
  CudnnMatmulLengths lengths;
  if (p_.ragged) lengths = {.m = &q_lengths_, .n = &kv_lengths_, .pad_with_zero = true};
  graph_->Matmul(q, k_transposed, scores, lengths);
  return graph_->Pointwise(CUDNN_POINTWISE_MUL, scores, scale_);
}

// Masks what lies beyond the length of a sequence.
CudnnTensor AttentionGraph::MaskPadding(const CudnnTensor& scores) {
  if (!p_.ragged) return scores;
  const CudnnTensor row = graph_->Index(scores, 2, CUDNN_DATA_INT32);
  const CudnnTensor column = graph_->Index(scores, 3, CUDNN_DATA_INT32);
  const CudnnTensor row_inside = graph_->Logical(CUDNN_POINTWISE_CMP_LT, row, q_lengths_);
  const CudnnTensor column_inside = graph_->Logical(CUDNN_POINTWISE_CMP_LT, column, kv_lengths_);
  const CudnnTensor inside =
      graph_->Logical(CUDNN_POINTWISE_LOGICAL_AND, row_inside, column_inside);
  return graph_->Select(inside, scores, masked_);
}

CudnnTensor AttentionGraph::MaskFuture(const CudnnTensor& scores) {
  const CudnnTensor row = graph_->Index(scores, 2, kF32);
  const CudnnTensor column = graph_->Index(scores, 3, kF32);
  const CudnnTensor past = graph_->Logical(CUDNN_POINTWISE_CMP_GE, row, column);
  return graph_->Select(past, scores, masked_);
}

std::unique_ptr<CudnnGraph> AttentionGraph::Forward() {
  const CudnnTensor q = Rows(kUidQ, p_.heads, p_.q_stride, Offsets(kRaggedQ));
  const CudnnTensor k = Transposed(kUidK, p_.k_stride, Offsets(kRaggedK));
  const CudnnTensor v = Rows(kUidV, p_.kv_heads, p_.v_stride, Offsets(kRaggedV));
  const CudnnTensor o = Rows(kUidO, p_.heads, p_.o_stride, Offsets(kRaggedO));
  const CudnnTensor lse = RowStatistic(kUidLse);

  const CudnnTensor scores = MaskFuture(MaskPadding(ScaledScores(q, k)));
  const CudnnTensor largest = graph_->Virtual(kF32, RowDims(), RowStrides());
  graph_->Reduce(CUDNN_REDUCE_TENSOR_MAX, scores, largest);
  const CudnnTensor exponent = graph_->Pointwise(CUDNN_POINTWISE_SUB, scores, largest);
  const CudnnTensor weights = graph_->Pointwise(CUDNN_POINTWISE_EXP, exponent);
  const CudnnTensor sum = graph_->Virtual(kF32, RowDims(), RowStrides());
  graph_->Reduce(CUDNN_REDUCE_TENSOR_ADD, weights, sum);
  const CudnnTensor log_sum = graph_->Pointwise(CUDNN_POINTWISE_LOG, sum);
  graph_->PointwiseTo(CUDNN_POINTWISE_ADD, largest, log_sum, lse);
  const CudnnTensor p = graph_->Virtual(kBf16, ScoreDims(), ScoreStrides());
  graph_->PointwiseTo(CUDNN_POINTWISE_DIV, weights, sum, p);
  CudnnMatmulLengths lengths;
  if (p_.ragged) lengths = {.m = &q_lengths_, .k = &kv_lengths_};
  graph_->Matmul(p, v, o, lengths);
  return std::move(graph_);
}

CudnnTensor AttentionGraph::Transpose(const CudnnTensor& scores) {
  const int64_t s = p_.seqlen;
  const CudnnTensor transposed =
      graph_->Virtual(kBf16, ScoreDims(), {p_.heads * s * s, s * s, 1, s});
  graph_->Reshape(scores, transposed);
  return transposed;
}

// weights^T rows, summed over the query heads of each key head.
void AttentionGraph::KeyGradient(const CudnnTensor& weights, const CudnnTensor& rows, int64_t uid,
                                 int64_t stride) {
  const CudnnTensor transposed = Transpose(weights);
  const CudnnTensor gradient = Rows(uid, p_.kv_heads, stride);
  if (p_.group() == 1) {
    graph_->Matmul(transposed, rows, gradient);
    return;
  }
  const CudnnTensor of_heads = graph_->Virtual(kBf16, HeadDims(), HeadStrides());
  graph_->Matmul(transposed, rows, of_heads);
  graph_->Reduce(CUDNN_REDUCE_TENSOR_ADD, of_heads, gradient);
}

void AttentionGraph::QueryGradient(const CudnnTensor& score_gradient,
                                   const CudnnTensor& k_transposed) {
  const CudnnTensor dq = Rows(kUidDq, p_.heads, p_.dq_stride);
  const CudnnTensor k = graph_->Virtual(kBf16, {p_.sequences, p_.kv_heads, p_.seqlen, p_.head_dim},
                                        {p_.seqlen * p_.k_stride, p_.head_dim, p_.k_stride, 1});
  graph_->Reshape(k_transposed, k);
  if (!p_.has_dq_sum()) {
    graph_->Matmul(score_gradient, k, dq);
    return;
  }
  const CudnnTensor sum = graph_->Real(kUidDqSum, kF32, HeadDims(), HeadStrides());
  graph_->Matmul(score_gradient, k, sum);
  graph_->PointwiseTo(CUDNN_POINTWISE_IDENTITY, sum, dq);
}

std::unique_ptr<CudnnGraph> AttentionGraph::Backward() {
  const CudnnTensor q = Rows(kUidQ, p_.heads, p_.q_stride);
  const CudnnTensor k = Transposed(kUidK, p_.k_stride);
  const CudnnTensor v = Transposed(kUidV, p_.v_stride);
  const CudnnTensor o = Rows(kUidO, p_.heads, p_.o_stride);
  const CudnnTensor lse = RowStatistic(kUidLse);
  const CudnnTensor dout = Rows(kUidDout, p_.heads, p_.dout_stride);

  // delta = rowsum(dout * o). The product with one stands where dropout would scale.
  const CudnnTensor one = graph_->Scalar(kUidOne);
  const CudnnTensor products = graph_->Virtual(kF32, HeadDims(), HeadStrides());
  graph_->PointwiseTo(CUDNN_POINTWISE_MUL, dout, o, products);
  const CudnnTensor row_sum = graph_->Virtual(kF32, RowDims(), RowStrides());
  graph_->Reduce(CUDNN_REDUCE_TENSOR_ADD, products, row_sum);
  const CudnnTensor delta = RowStatistic(kUidDelta);
  graph_->PointwiseTo(CUDNN_POINTWISE_MUL, row_sum, one, delta);

  // p = exp(scores - lse), dv = p^T dout. lse comes off before the causal mask.
  const CudnnTensor scores = ScaledScores(q, k);
  const CudnnTensor exponent = MaskFuture(graph_->Pointwise(CUDNN_POINTWISE_SUB, scores, lse));
  const CudnnTensor p = graph_->Pointwise(CUDNN_POINTWISE_EXP, exponent);
  KeyGradient(p, dout, kUidDv, p_.dv_stride);

  // ds = (dout v^T - delta) * p * scale, dk = ds^T q, dq = ds k
  const CudnnTensor dp = graph_->Virtual(kF32, ScoreDims(), ScoreStrides());
  graph_->Matmul(dout, v, dp);
  const CudnnTensor centred = graph_->Pointwise(CUDNN_POINTWISE_SUB, dp, delta);
  const CudnnTensor weighted = graph_->Pointwise(CUDNN_POINTWISE_MUL, centred, p);
  const CudnnTensor ds = graph_->Pointwise(CUDNN_POINTWISE_MUL, weighted, scale_);
  KeyGradient(ds, q, kUidDk, p_.dk_stride);
  QueryGradient(ds, k);
  return std::move(graph_);
}

}  // namespace

std::unique_ptr<CudnnGraph> AttentionForwardGraph(const CudnnLibrary& library,
                                                  const CudnnAttentionProblem& problem) {
  return AttentionGraph(library, problem).Forward();
}

std::unique_ptr<CudnnGraph> AttentionBackwardGraph(const CudnnLibrary& library,
                                                   const CudnnAttentionProblem& problem) {
  return AttentionGraph(library, problem).Backward();
}

}  // namespace lorad::cuda
