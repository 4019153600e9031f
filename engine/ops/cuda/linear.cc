// Linear layers, forward. With LoRA on all rows, no dropout and spare columns behind x:
//   x's spare = x A^T,   y (+)= [x | spare] [W | scaling * B]^T
// where A and B hold the adapters of all terms, B block-diagonal. Otherwise y (+)= x W^T, and
// y += (drop(x) A^T) (scaling * B)^T for the segments over each range of rows.
#include "engine/ops/cuda/linear.h"

#include <vector>

#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/ops/cuda/dropout.h"
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/row_linear.h"

namespace lorad::cuda {
namespace {

class Forward {
 public:
  Forward(Matmul& matmul, const LinearArgs& args, const LinearScratch& scratch,
          const LinearLimits& limits)
      : matmul_(matmul),
        args_(args),
        scratch_(scratch),
        limits_(limits),
        terms_(GroupTerms(args.terms)),
        // Not const: the spare columns are written.
        x_(const_cast<BFloat16*>(args.x.as<BFloat16>())),
        x_stride_(args.x.stride()),
        tokens_(args.x.shape[0]),
        in_(args.x.shape[1]),
        workspace_(static_cast<BFloat16*>(args.workspace.data)),
        residual_(args.residual.empty() ? nullptr : args.residual.as<BFloat16>()) {
    for (const LinearTerm& term : args.terms) outputs_.push_back(term.y);
  }

  absl::Status Run() {
    for (const TermBatch& batch : MakeBatches(terms_, limits_)) {
      const std::vector<LoraPass> passes = MakePasses(terms_, batch);
      const LoraPass* inside = OnlyPass(passes, batch, tokens_);
      if (inside != nullptr && x_stride_ - in_ >= inside->columns) {
        RETURN_IF_ERROR(BaseAndLora(batch, *inside));
        continue;
      }
      RETURN_IF_ERROR(Base(batch));
      const BatchScratch places = LayOut(terms_, batch, tokens_);
      for (const LoraPass& pass : passes) RETURN_IF_ERROR(Lora(batch, pass, places));
    }
    return AddBiases();
  }

 private:
  absl::Span<const ConstTensorView> Outputs(const TermBatch& batch) const {
    return absl::MakeConstSpan(outputs_).subspan(batch.first, batch.count);
  }

  // y (+)= x w^T, over the first `columns` of a row.
  absl::Status Multiply(const BFloat16* w, int64_t w_stride, const OutputRun& run,
                        int64_t columns) {
    return matmul_.Run({.m = tokens_,
                        .n = run.size,
                        .k = columns,
                        .a = x_,
                        .a_stride = x_stride_,
                        .b = w,
                        .b_stride = w_stride,
                        .transpose_b = true,
                        .d = run.data,
                        .d_stride = run.stride,
                        .c = residual_ == nullptr ? nullptr : residual_ + run.first,
                        .c_stride = args_.residual.stride(),
                        .beta = args_.accumulate || residual_ != nullptr ? 1.0f : 0.0f},
                       scratch_);
  }

  absl::Status Base(const TermBatch& batch) {
    return ForEachPiece(terms_, batch, Outputs(batch), workspace_, scratch_.stream,
                        [&](const BFloat16* w, int64_t w_stride, const OutputRun& run) {
                          return Multiply(w, w_stride, run, in_);
                        });
  }

  absl::Status BaseAndLora(const TermBatch& batch, const LoraPass& pass) {
    const FusedMatrix fused(batch, pass, in_, workspace_);
    RETURN_IF_ERROR(Write(fused, pass, terms_, batch, scratch_.stream));
    RETURN_IF_ERROR(Shrink(pass, x_, x_stride_, fused.a, fused.stride, /*s=*/x_ + in_, x_stride_));
    for (const OutputRun& run : AdjacentRuns(Outputs(batch))) {
      RETURN_IF_ERROR(
          Multiply(fused.w + run.first * fused.stride, fused.stride, run, in_ + pass.columns));
    }
    return absl::OkStatus();
  }

  // s = x A^T for the rows of the pass, also to the segments' xa.
  absl::Status Shrink(const LoraPass& pass, const BFloat16* x, int64_t x_stride, const BFloat16* a,
                      int64_t a_stride, BFloat16* s, int64_t s_stride) {
    RETURN_IF_ERROR(matmul_.Run({.m = pass.rows(),
                                 .n = pass.columns,
                                 .k = in_,
                                 .a = x,
                                 .a_stride = x_stride,
                                 .b = a,
                                 .b_stride = a_stride,
                                 .transpose_b = true,
                                 .d = s,
                                 .d_stride = s_stride},
                                scratch_));
    return SaveXa(pass, s, s_stride, scratch_.stream);
  }

  absl::Status Lora(const TermBatch& batch, const LoraPass& pass, const BatchScratch& places) {
    const int64_t stride = WeightStride(in_);
    BFloat16 *a = workspace_ + places.a, *b = workspace_ + places.b, *s = workspace_ + places.s;
    const BFloat16* x = x_ + pass.row_begin * x_stride_;
    int64_t x_stride = x_stride_;
    if (pass.dropout != nullptr) {
      BFloat16* dropped = workspace_ + places.dropped;
      RETURN_IF_ERROR(ToStatus(LaunchDropout(pass.mask(), x, x_stride, pass.rows(), in_, dropped,
                                             stride, scratch_.stream),
                               "dropout"));
      x = dropped;
      x_stride = stride;
    }
    RETURN_IF_ERROR(
        WriteOperands(pass, terms_, batch, a, stride, b, pass.columns, scratch_.stream));
    RETURN_IF_ERROR(Shrink(pass, x, x_stride, a, stride, s, pass.columns));
    if (pass.parts.size() == 1) {
      const LoraPass::Part& part = pass.parts[0];
      OutputRun run = AdjacentRuns(absl::MakeConstSpan(&outputs_[part.term], 1)).front();
      run.first = part.row;
      return Expand(pass, s, b, run);
    }
    for (const OutputRun& run : AdjacentRuns(Outputs(batch))) {
      RETURN_IF_ERROR(Expand(pass, s, b, run));
    }
    return absl::OkStatus();
  }

  // y += s B^T for the rows of the pass.
  absl::Status Expand(const LoraPass& pass, const BFloat16* s, const BFloat16* b,
                      const OutputRun& run) {
    return matmul_.Run({.m = pass.rows(),
                        .n = run.size,
                        .k = pass.columns,
                        .a = s,
                        .a_stride = pass.columns,
                        .b = b + run.first * pass.columns,
                        .b_stride = pass.columns,
                        .transpose_b = true,
                        .d = run.data + pass.row_begin * run.stride,
                        .d_stride = run.stride,
                        .beta = 1},
                       scratch_);
  }

  absl::Status AddBiases() {
    for (const LinearTerm& term : args_.terms) {
      if (term.bias.empty()) continue;
      RETURN_IF_ERROR(
          ToStatus(LaunchAddBias(term.y.as<BFloat16>(), term.y.stride(), term.bias.as<float>(),
                                 tokens_, term.weight.out_features, scratch_.stream),
                   "bias"));
    }
    return absl::OkStatus();
  }

  Matmul& matmul_;
  const LinearArgs& args_;
  const LinearScratch& scratch_;
  const LinearLimits limits_;
  const std::vector<GroupTerm> terms_;
  BFloat16* const x_;
  const int64_t x_stride_, tokens_, in_;
  BFloat16* const workspace_;
  const BFloat16* const residual_;
  std::vector<ConstTensorView> outputs_;
};

}  // namespace

absl::Status Linear(Matmul& matmul, const LinearArgs& args, const LinearScratch& scratch,
                    const LinearLimits& limits) {
  if (args.row_invariant) return RowInvariantLinear(args, scratch);
  if (args.x.shape[0] == 0) return absl::OkStatus();
  RETURN_IF_ERROR(Forward(matmul, args, scratch, limits).Run());
  return args.swiglu.empty() ? absl::OkStatus() : SwiGluOfTerms(args, scratch.stream);
}

int64_t LinearWorkspaceBytes(const LinearArgs& args, const LinearLimits& limits) {
  if (args.row_invariant) return RowInvariantLinearWorkspaceBytes(args);
  return GroupWorkspaceBytes(GroupTerms(args.terms), args.x.shape[0], limits);
}

}  // namespace lorad::cuda
