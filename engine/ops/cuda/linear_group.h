// How a group of linear layers over one input is cut up for the device, and where its scratch lies:
// what the forward and the backward pass share.
#ifndef LORAD_ENGINE_OPS_CUDA_LINEAR_GROUP_H_
#define LORAD_ENGINE_OPS_CUDA_LINEAR_GROUP_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/core/checked_math.h"
#include "engine/ops/cuda/dequantize.h"
#include "engine/ops/cuda/dropout.h"
#include "engine/ops/cuda/lora_operands.h"
#include "engine/ops/linear.h"

namespace lorad::cuda {

// Bounds of scratch. A workspace is sized and used under the same limits.
struct LinearLimits {
  // bf16 weights at once: gate and up of a 70B model fit one by one. What is larger is decoded and
  // multiplied some rows at a time.
  int64_t weight_bytes = int64_t{600} << 20;
  // Logits at once in the loss: 1,024 tokens of a vocabulary of 128 Ki.
  int64_t logits_bytes = int64_t{256} << 20;
};

// Ranks of an adapter, or of several side by side, fill whole multiples of this: the step of a
// product's contraction.
inline constexpr int64_t kRankAlign = 64;

// Rows of decoded weights begin on 16 bytes.
inline int64_t WeightStride(int64_t columns) { return RoundUp(columns, 8); }
// Outputs of `weight` decoded at once: all, or as many as the limit allows in whole blocks of both
// quantisations, so that a part is a weight of its own.
int64_t ChunkRows(const WeightView& weight, const LinearLimits& limits);
// Rows [begin, end) of `weight`, begin a multiple of ChunkRows, decoded to `row_offset` and on.
PackedWeight PackedRows(const WeightView& weight, int64_t begin, int64_t end, int64_t row_offset);

// What both passes know of a term.
struct GroupTerm {
  const WeightView* weight = nullptr;
  absl::Span<const LoraSegment> lora;
  const LoraDropout* dropout = nullptr;

  bool drops() const { return dropout->probability > 0 && !lora.empty(); }
};
template <typename Terms>
std::vector<GroupTerm> GroupTerms(const Terms& terms) {
  std::vector<GroupTerm> group;
  for (const auto& term : terms) group.push_back({&term.weight, term.lora, &term.dropout});
  return group;
}

// Consecutive terms that are decoded, and multiplied, as one matrix.
struct TermBatch {
  size_t first = 0;        // term
  size_t count = 0;        // at most kMaxDequantizeWeights and kMaxLoraTerms
  int64_t rows = 0;        // outputs of all its terms
  int64_t chunk_rows = 0;  // of them, decoded at once; fewer than `rows` for a single term alone
  bool dense = false;      // not packed: multiplied where it lies

  bool whole() const { return !dense && chunk_rows == rows; }
};
// Depends on the weights alone: what is enough scratch for some ranks and tokens is enough for
// fewer.
std::vector<TermBatch> MakeBatches(absl::Span<const GroupTerm> terms, const LinearLimits& limits);

// Where the scratch of a batch lies, in elements of bf16 from the start of the workspace. Depends
// on shapes, not on how the operands lie.
struct BatchScratch {
  // From 0 on: weights [chunk_rows, WeightStride(in)], and A right behind them; or a FusedMatrix.
  int64_t a = 0;        // [columns, WeightStride(in)]
  int64_t b = 0;        // [rows, columns]
  int64_t s = 0;        // [num_tokens, columns]: x A^T or scaling * dy B
  int64_t dropped = 0;  // [num_tokens, WeightStride(in)], with dropout
  int64_t end = 0;
};
BatchScratch LayOut(absl::Span<const GroupTerm> terms, const TermBatch& batch, int64_t num_tokens);
// Of the largest batch.
int64_t GroupWorkspaceBytes(absl::Span<const GroupTerm> terms, int64_t num_tokens,
                            const LinearLimits& limits);

// Segments of a batch's terms over the same rows: one low-rank product serves them all. With
// dropout each term's input is another, so a segment is alone.
struct LoraPass {
  struct Part {
    const LoraSegment* segment;
    size_t term;     // of the group
    int64_t row;     // its first output among the batch's
    int64_t column;  // its first rank among the pass's
  };
  int64_t row_begin = 0, row_end = 0;
  int64_t columns = 0;  // ranks of all parts, and zeros up to a multiple of kRankAlign
  std::vector<Part> parts;
  const LoraDropout* dropout = nullptr;  // null: none

  int64_t rows() const { return row_end - row_begin; }
  // Of the rows of the pass.
  DropoutMask mask() const;
};
// Segments without rows or ranks are in none.
std::vector<LoraPass> MakePasses(absl::Span<const GroupTerm> terms, const TermBatch& batch);
// The pass over all rows that can run inside the batch's own product; null if there is none.
const LoraPass* OnlyPass(const std::vector<LoraPass>& passes, const TermBatch& batch,
                         int64_t num_tokens);

// A [columns, in] and scaling * B [rows of the batch, columns] in bf16.
absl::Status WriteOperands(const LoraPass& pass, absl::Span<const GroupTerm> terms,
                           const TermBatch& batch, BFloat16* a, int64_t a_stride, BFloat16* b,
                           int64_t b_stride, cudaStream_t stream);
// The fused matrix of a batch and its only pass, at the start of the workspace:
//   [ W  scaling * B ]   rows [0, batch.rows), A's columns behind W's
//   [ A     unused   ]   `columns` rows below
struct FusedMatrix {
  FusedMatrix(const TermBatch& batch, const LoraPass& pass, int64_t in, BFloat16* workspace)
      : stride(WeightStride(in) + pass.columns),
        w(workspace),
        a(workspace + batch.rows * stride),
        b(workspace + in) {}

  const int64_t stride;
  BFloat16 *const w, *const a, *const b;
};
// Decodes the weights and writes the operands.
absl::Status Write(const FusedMatrix& fused, const LoraPass& pass,
                   absl::Span<const GroupTerm> terms, const TermBatch& batch, cudaStream_t stream);
// s [rows, columns] to the segments' xa.
absl::Status SaveXa(const LoraPass& pass, const BFloat16* s, int64_t s_stride, cudaStream_t stream);
// All weights of a batch that is whole().
absl::Status DecodeBatch(absl::Span<const GroupTerm> terms, const TermBatch& batch, BFloat16* out,
                         int64_t stride, cudaStream_t stream);

// Outputs of neighbouring terms that lie side by side in memory.
struct OutputRun {
  BFloat16* data = nullptr;
  int64_t stride = 0;
  int64_t first = 0;  // among the outputs of the views that it was made of
  int64_t size = 0;
};
std::vector<OutputRun> AdjacentRuns(absl::Span<const ConstTensorView> views);

// Calls product(w, w_stride, run) for pieces that make up the batch: w [run.size, in] are the
// weights of the outputs in `run`. `views` are the batch's outputs. Packed weights are decoded at
// the start of `workspace`, where the next call of `product` may find others.
using PieceProduct =
    absl::FunctionRef<absl::Status(const BFloat16* w, int64_t w_stride, const OutputRun& run)>;
absl::Status ForEachPiece(absl::Span<const GroupTerm> terms, const TermBatch& batch,
                          absl::Span<const ConstTensorView> views, BFloat16* workspace,
                          cudaStream_t stream, PieceProduct product);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_LINEAR_GROUP_H_
