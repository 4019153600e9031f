// Linear layers, backward. With LoRA on all rows, no dropout, dy side by side and spare columns
// behind the last:
//   dy's spare = dy (scaling * B),   dx (+)= [dy | spare] [W; A]
// where A and B hold the adapters of all terms, B block-diagonal. Otherwise dx (+)= dy W, and
// dx += drop'((dy (scaling * B)) A) for the segments over each range of rows. Then, in fp32,
//   db += scaling * dy^T xa,   da += s^T drop(x).
#include <vector>

#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/ops/cuda/dropout.h"
#include "engine/ops/cuda/linear.h"

namespace lorad::cuda {
namespace {

// A bf16 matrix with strided rows.
struct Strided {
  BFloat16* data;
  int64_t stride;
};

class Backward {
 public:
  Backward(Matmul& matmul, const LinearBackwardArgs& args, const LinearScratch& scratch,
           const LinearLimits& limits)
      : matmul_(matmul),
        scratch_(scratch),
        limits_(limits),
        terms_(GroupTerms(args.terms)),
        x_{const_cast<BFloat16*>(args.x.as<BFloat16>()), args.x.stride()},
        tokens_(args.x.shape[0]),
        in_(args.x.shape[1]),
        dx_{args.dx.empty() ? nullptr : args.dx.as<BFloat16>(),
            args.dx.empty() ? 0 : args.dx.stride()},
        workspace_(static_cast<BFloat16*>(args.workspace.data)),
        workspace_is_forwards_(args.workspace_is_forwards),
        dx_has_value_(args.accumulate) {
    for (const LinearBackwardTerm& term : args.terms) dy_.push_back(term.dy);
  }

  absl::Status Run() {
    for (const TermBatch& batch : MakeBatches(terms_, limits_)) {
      const std::vector<LoraPass> passes = MakePasses(terms_, batch);
      const BatchScratch places = LayOut(terms_, batch, tokens_);
      const LoraPass* inside = OnlyPass(passes, batch, tokens_);
      if (dx_.data != nullptr && inside != nullptr && SpareColumns(batch) >= inside->columns) {
        RETURN_IF_ERROR(BaseAndLora(batch, *inside));
        continue;
      }
      if (dx_.data != nullptr) RETURN_IF_ERROR(Base(batch));
      for (const LoraPass& pass : passes) RETURN_IF_ERROR(Lora(batch, pass, places));
    }
    return absl::OkStatus();
  }

 private:
  absl::Span<const ConstTensorView> Dy(const TermBatch& batch) const {
    return absl::MakeConstSpan(dy_).subspan(batch.first, batch.count);
  }

  // Columns behind the batch's dy that belong to the op: behind the group's last, where all of the
  // batch lies side by side with it.
  int64_t SpareColumns(const TermBatch& batch) const {
    if (batch.first + batch.count != terms_.size()) return 0;
    const OutputRun last = AdjacentRuns(dy_).back();
    int64_t first = 0;
    for (size_t i = 0; i < batch.first; ++i) first += terms_[i].weight->out_features;
    return first >= last.first ? last.stride - last.size : 0;
  }

  // dx (+)= dy w
  absl::Status Multiply(const BFloat16* w, int64_t w_stride, const OutputRun& dy) {
    const float beta = dx_has_value_ ? 1.0f : 0.0f;
    dx_has_value_ = true;
    return matmul_.Run({.m = tokens_,
                        .n = in_,
                        .k = dy.size,
                        .a = dy.data,
                        .a_stride = dy.stride,
                        .b = w,
                        .b_stride = w_stride,
                        .d = dx_.data,
                        .d_stride = dx_.stride,
                        .beta = beta},
                       scratch_);
  }

  absl::Status Base(const TermBatch& batch) {
    return ForEachPiece(terms_, batch, Dy(batch), workspace_, scratch_.stream,
                        [&](const BFloat16* w, int64_t w_stride, const OutputRun& run) {
                          return Multiply(w, w_stride, run);
                        });
  }

  absl::Status BaseAndLora(const TermBatch& batch, const LoraPass& pass) {
    const FusedMatrix fused(batch, pass, in_, workspace_);
    if (!ForwardLeft(batch, pass))
      RETURN_IF_ERROR(Write(fused, pass, terms_, batch, scratch_.stream));
    OutputRun dy = AdjacentRuns(Dy(batch)).front();
    const Strided s = {dy.data + dy.size, dy.stride};
    RETURN_IF_ERROR(MultiplyB(pass, dy, fused.b, fused.stride, /*add=*/false, s));
    dy.size += pass.columns;  // A comes right below the weights
    RETURN_IF_ERROR(Multiply(fused.w, fused.stride, dy));
    return Gradients(pass, s, x_);
  }

  // Whether the workspace holds the batch's fused matrix: it is the only one, and the forward pass
  // found the columns behind x that made it write one.
  bool ForwardLeft(const TermBatch& batch, const LoraPass& pass) const {
    return workspace_is_forwards_ && batch.count == terms_.size() &&
           x_.stride - in_ >= pass.columns;
  }

  // s (+)= dy (scaling * B) for the rows of the pass.
  absl::Status MultiplyB(const LoraPass& pass, const OutputRun& dy, const BFloat16* b,
                         int64_t b_stride, bool add, const Strided& s) {
    return matmul_.Run({.m = pass.rows(),
                        .n = pass.columns,
                        .k = dy.size,
                        .a = dy.data + pass.row_begin * dy.stride,
                        .a_stride = dy.stride,
                        .b = b + dy.first * b_stride,
                        .b_stride = b_stride,
                        .d = s.data,
                        .d_stride = s.stride,
                        .beta = add ? 1.0f : 0.0f},
                       scratch_);
  }

  // s of a pass: each of its columns gets values from one run and zeros from the others.
  absl::Status S(const TermBatch& batch, const LoraPass& pass, const BFloat16* b,
                 const Strided& s) {
    if (pass.parts.size() == 1) {
      const LoraPass::Part& part = pass.parts[0];
      OutputRun run = AdjacentRuns(absl::MakeConstSpan(&dy_[part.term], 1)).front();
      run.first = part.row;
      return MultiplyB(pass, run, b, pass.columns, /*add=*/false, s);
    }
    bool add = false;
    for (const OutputRun& run : AdjacentRuns(Dy(batch))) {
      RETURN_IF_ERROR(MultiplyB(pass, run, b, pass.columns, add, s));
      add = true;
    }
    return absl::OkStatus();
  }

  absl::Status Lora(const TermBatch& batch, const LoraPass& pass, const BatchScratch& places) {
    const int64_t stride = WeightStride(in_);
    BFloat16 *a = workspace_ + places.a, *b = workspace_ + places.b;
    const Strided s = {workspace_ + places.s, pass.columns};
    RETURN_IF_ERROR(
        WriteOperands(pass, terms_, batch, a, stride, b, pass.columns, scratch_.stream));
    RETURN_IF_ERROR(S(batch, pass, b, s));
    const Strided x = {x_.data + pass.row_begin * x_.stride, x_.stride};
    const Strided dx = {dx_.data == nullptr ? nullptr : dx_.data + pass.row_begin * dx_.stride,
                        dx_.stride};
    if (pass.dropout == nullptr) {
      if (dx.data != nullptr) RETURN_IF_ERROR(MultiplyA(pass, s, a, /*add=*/true, dx));
      return Gradients(pass, s, x);
    }
    const Strided dropped = {workspace_ + places.dropped, stride};
    if (dx.data != nullptr) {
      RETURN_IF_ERROR(MultiplyA(pass, s, a, /*add=*/false, dropped));
      RETURN_IF_ERROR(
          ToStatus(LaunchDropoutAdd(pass.mask(), dropped.data, dropped.stride, pass.rows(), in_,
                                    dx.data, dx.stride, scratch_.stream),
                   "dropout"));
    }
    RETURN_IF_ERROR(ToStatus(LaunchDropout(pass.mask(), x.data, x.stride, pass.rows(), in_,
                                           dropped.data, dropped.stride, scratch_.stream),
                             "dropout"));
    return Gradients(pass, s, dropped);
  }

  // out (+)= s A for the rows of the pass.
  absl::Status MultiplyA(const LoraPass& pass, const Strided& s, const BFloat16* a, bool add,
                         const Strided& out) {
    return matmul_.Run({.m = pass.rows(),
                        .n = in_,
                        .k = pass.columns,
                        .a = s.data,
                        .a_stride = s.stride,
                        .b = a,
                        .b_stride = WeightStride(in_),
                        .d = out.data,
                        .d_stride = out.stride,
                        .beta = add ? 1.0f : 0.0f},
                       scratch_);
  }

  // `x` and `s` begin at the first row of the pass; x is drop(x) where there is dropout.
  absl::Status Gradients(const LoraPass& pass, const Strided& s, const Strided& x) {
    for (const LoraPass::Part& part : pass.parts) RETURN_IF_ERROR(GradientB(pass, part));
    for (size_t i = 0; i < pass.parts.size();) {
      const TensorView& da = pass.parts[i].segment->da;
      const int64_t column = pass.parts[i].column;
      // Ranks are side by side in s, so gradients one after another in memory are one matrix.
      int64_t ranks = 0;
      do {
        ranks += pass.parts[i++].segment->da.shape[0];
      } while (i < pass.parts.size() && Follows(pass.parts[i].segment->da, da, ranks));
      RETURN_IF_ERROR(matmul_.Run({.m = ranks,
                                   .n = in_,
                                   .k = pass.rows(),
                                   .a = s.data + column,
                                   .a_stride = s.stride,
                                   .transpose_a = true,
                                   .b = x.data,
                                   .b_stride = x.stride,
                                   .d = da.as<float>(),
                                   .d_stride = da.stride(),
                                   .d_dtype = DType::kF32,
                                   .beta = 1},
                                  scratch_));
    }
    return absl::OkStatus();
  }

  static bool Follows(const TensorView& next, const TensorView& first, int64_t rows) {
    return next.stride() == first.stride() &&
           next.as<float>() == first.as<float>() + rows * first.stride();
  }

  absl::Status GradientB(const LoraPass& pass, const LoraPass::Part& part) {
    const LoraSegment& segment = *part.segment;
    const ConstTensorView& dy = dy_[part.term];
    return matmul_.Run({.m = segment.db.shape[0],
                        .n = segment.db.shape[1],
                        .k = pass.rows(),
                        .a = dy.as<BFloat16>() + pass.row_begin * dy.stride(),
                        .a_stride = dy.stride(),
                        .transpose_a = true,
                        .b = segment.xa.as<BFloat16>(),
                        .b_stride = segment.xa.stride(),
                        .d = segment.db.as<float>(),
                        .d_stride = segment.db.stride(),
                        .d_dtype = DType::kF32,
                        .alpha = segment.scaling,
                        .beta = 1},
                       scratch_);
  }

  Matmul& matmul_;
  const LinearScratch& scratch_;
  const LinearLimits limits_;
  const std::vector<GroupTerm> terms_;
  const Strided x_;
  const int64_t tokens_, in_;
  const Strided dx_;  // null: not wanted
  BFloat16* const workspace_;
  const bool workspace_is_forwards_;
  bool dx_has_value_;  // to be added to
  std::vector<ConstTensorView> dy_;
};

}  // namespace

absl::Status LinearBackward(Matmul& matmul, const LinearBackwardArgs& args,
                            const LinearScratch& scratch, const LinearLimits& limits) {
  if (args.x.shape[0] == 0) return absl::OkStatus();
  return Backward(matmul, args, scratch, limits).Run();
}

int64_t LinearBackwardWorkspaceBytes(const LinearBackwardArgs& args, const LinearLimits& limits) {
  return GroupWorkspaceBytes(GroupTerms(args.terms), args.x.shape[0], limits);
}

}  // namespace lorad::cuda
