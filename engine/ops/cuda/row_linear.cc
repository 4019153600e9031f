#include "engine/ops/cuda/row_linear.h"

#include <algorithm>
#include <array>
#include <vector>

#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/ops/cuda/dropout.h"
#include "engine/ops/cuda/elementwise.h"
#include "engine/ops/cuda/row_lora.h"
#include "engine/ops/cuda/row_product.h"

namespace lorad::cuda {
namespace {

bool HasDropout(const LinearTerm& term) {
  return term.dropout.probability > 0 && !term.lora.empty();
}

// Which of a term's adapters go into the product's own launch. It is a matter of the layer and the
// adapter alone, so that a row's bits do not depend on the rows beside it.
class FusedLoras {
 public:
  FusedLoras(const LinearArgs& args, const LinearScratch& scratch) {
    for (const LinearTerm& term : args.terms) {
      takes_.push_back(scratch.counters != nullptr && !HasDropout(term) &&
                       TakesLoras(ToPackedWeight(term.weight, /*row_offset=*/0),
                                  args.x.as<BFloat16>(), args.x.stride()));
      for (const LoraSegment& lora : term.lora)
        (Takes(takes_.size() - 1, lora) ? any_ : any_apart_) = true;
    }
  }

  bool any() const { return any_; }
  // Whether some adapter is left to launches of its own.
  bool any_apart() const { return any_apart_; }
  bool Takes(size_t term, const LoraSegment& lora) const {
    const int64_t rank = lora.a.shape[0];
    const auto fits = [](const void* pointer, uintptr_t bytes) {
      return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
    };
    return takes_[term] && lora.a.dtype == DType::kBF16 && rank % kRowLoraRankStep == 0 &&
           rank <= kMaxRowLoraRank && lora.a.stride() == lora.a.shape[1] &&
           lora.b.stride() == rank && lora.xa.stride() == rank && fits(lora.a.data, 16) &&
           fits(lora.b.data, 16) && fits(lora.xa.data, 8);
  }
  // Those of rows [begin, end), counted from `begin`.
  std::vector<RowProductLora> Of(const LinearTerm& term, size_t index, int64_t begin,
                                 int64_t end) const {
    std::vector<RowProductLora> loras;
    for (const LoraSegment& lora : term.lora) {
      const int64_t first = std::max(begin, lora.row_begin), last = std::min(end, lora.row_end);
      const int64_t rank = lora.a.shape[0];
      if (first >= last || rank == 0 || !Takes(index, lora)) continue;
      loras.push_back({.a = lora.a.as<BFloat16>(),
                       .b = lora.b.as<BFloat16>(),
                       .xa = lora.xa.as<BFloat16>() + (first - lora.row_begin) * rank,
                       .scaling = lora.scaling,
                       .rank = rank,
                       .row_begin = first - begin,
                       .row_end = last - begin});
    }
    return loras;
  }

 private:
  std::vector<bool> takes_;  // of each term
  bool any_ = false, any_apart_ = false;
};

// Rows [begin, end) of terms [first, first + count). `swiglu_done`: whether the products ended in
// it.
absl::Status MultiplyRows(const LinearArgs& args, const FusedLoras& fused, size_t first,
                          size_t count, int64_t begin, int64_t end, const LinearScratch& scratch,
                          bool& swiglu_done) {
  const RowProductScratch partial = {
      scratch.lt_workspace, static_cast<int64_t>(scratch.lt_workspace_bytes), scratch.counters};
  std::array<RowProductTerm, kMaxRowProductTerms> products;
  std::array<std::vector<RowProductLora>, kMaxRowProductTerms> loras;
  for (size_t i = 0; i < count; ++i) {
    const LinearTerm& term = args.terms[first + i];
    RowProductTerm& product = products[i];
    product.weight = ToPackedWeight(term.weight, /*row_offset=*/0);
    product.bias = term.bias.empty() ? nullptr : term.bias.as<float>();
    product.y = term.y.as<BFloat16>() + begin * term.y.stride();
    product.y_stride = term.y.stride();
    const ConstTensorView residual = args.accumulate ? term.y : args.residual;
    if (!residual.empty()) {
      product.residual = residual.as<BFloat16>() + begin * residual.stride();
      product.residual_stride = residual.stride();
    }
    loras[i] = fused.Of(term, first + i, begin, end);
    product.loras = loras[i].data();
    product.num_loras = static_cast<int64_t>(loras[i].size());
  }
  const BFloat16* const x = args.x.as<BFloat16>() + begin * args.x.stride();
  const int64_t rows = end - begin;
  const auto terms = static_cast<int>(count);
  // What the first launch can, those of fewer rows can.
  if (begin == 0) {
    swiglu_done = !args.swiglu.empty() && !fused.any_apart() &&
                  CanEndInSwiGlu(x, args.x.stride(), rows, products.data(), terms);
  }
  RowProductSwiGlu swiglu;
  if (swiglu_done) {
    swiglu = {args.swiglu.as<BFloat16>() + begin * args.swiglu.stride(), args.swiglu.stride()};
  }
  return ToStatus(LaunchRowProduct(x, args.x.stride(), rows, products.data(), terms, partial,
                                   scratch.stream, swiglu),
                  "row product");
}

absl::Status MultiplyWeights(const LinearArgs& args, const FusedLoras& fused,
                             const LinearScratch& scratch, bool& swiglu_done) {
  const int64_t rows = args.x.shape[0];
  const int64_t rows_a_launch = fused.any() ? kMaxRowLoraRows : rows;
  const size_t terms_a_launch = fused.any() ? kMaxRowLoraTerms : kMaxRowProductTerms;
  for (size_t first = 0; first < args.terms.size(); first += terms_a_launch) {
    const size_t count = std::min(terms_a_launch, args.terms.size() - first);
    for (int64_t begin = 0; begin < rows; begin += rows_a_launch) {
      RETURN_IF_ERROR(MultiplyRows(args, fused, first, count, begin,
                                   std::min(begin + rows_a_launch, rows), scratch, swiglu_done));
    }
  }
  return absl::OkStatus();
}

// A segment of `term` with input x, which has the rows of the batch.
void AppendSegment(const LinearTerm& term, const LoraSegment& lora, const BFloat16* x,
                   int64_t x_stride, std::vector<RowLoraSegment>& segments) {
  RowLoraSegment segment;
  segment.x = x + lora.row_begin * x_stride;
  segment.a = lora.a.data;
  segment.b = lora.b.data;
  segment.is_fp32 = lora.a.dtype == DType::kF32;
  segment.xa = lora.xa.as<BFloat16>();
  segment.y = term.y.as<BFloat16>() + lora.row_begin * term.y.stride();
  segment.x_stride = x_stride;
  segment.a_stride = lora.a.stride();
  segment.b_stride = lora.b.stride();
  segment.xa_stride = lora.xa.stride();
  segment.y_stride = term.y.stride();
  segment.rows = lora.row_end - lora.row_begin;
  segment.in = term.weight.in_features;
  segment.out = term.weight.out_features;
  segment.rank = lora.a.shape[0];
  segment.scaling = lora.scaling;
  segments.push_back(segment);
}

absl::Status AddSegments(const std::vector<RowLoraSegment>& segments, cudaStream_t stream) {
  return ToStatus(LaunchRowLora(segments.data(), static_cast<int64_t>(segments.size()), stream),
                  "row LoRA");
}

// LoRA of a term whose adapters read drop(x), which is left in the workspace.
absl::Status AddDropped(const LinearTerm& term, const LinearArgs& args, cudaStream_t stream) {
  const int64_t columns = term.weight.in_features;
  BFloat16* dropped = static_cast<BFloat16*>(args.workspace.data);
  const LoraDropout& dropout = term.dropout;
  const DropoutMask mask = {dropout.probability, dropout.seed, dropout.step, dropout.module,
                            dropout.token_keys.as<uint64_t>()};
  RETURN_IF_ERROR(ToStatus(LaunchDropout(mask, args.x.as<BFloat16>(), args.x.stride(),
                                         args.x.shape[0], columns, dropped, columns, stream),
                           "dropout"));
  std::vector<RowLoraSegment> segments;
  for (const LoraSegment& lora : term.lora) AppendSegment(term, lora, dropped, columns, segments);
  return AddSegments(segments, stream);
}

}  // namespace

absl::Status SwiGluOfTerms(const LinearArgs& args, cudaStream_t stream) {
  const TensorView &gate = args.terms[0].y, &up = args.terms[1].y, &out = args.swiglu;
  return ToStatus(
      LaunchSwiGlu(gate.as<BFloat16>(), gate.stride(), up.as<BFloat16>(), up.stride(),
                   out.as<BFloat16>(), out.stride(), out.shape[0], out.shape[1], stream),
      "swiglu");
}

int64_t RowInvariantLinearWorkspaceBytes(const LinearArgs& args) {
  int64_t widest = 0;
  for (const LinearTerm& term : args.terms) {
    if (HasDropout(term)) widest = std::max(widest, term.weight.in_features);
  }
  return widest * args.x.shape[0] * SizeOf(DType::kBF16);
}

absl::Status RowInvariantLinear(const LinearArgs& args, const LinearScratch& scratch) {
  if (args.x.shape[0] == 0) return absl::OkStatus();
  const int64_t given = args.workspace.empty() ? 0 : args.workspace.size_bytes();
  if (given < RowInvariantLinearWorkspaceBytes(args)) {
    return absl::InvalidArgumentError("linear: the workspace is too small for dropout");
  }
  const FusedLoras fused(args, scratch);
  bool swiglu_done = false;
  RETURN_IF_ERROR(MultiplyWeights(args, fused, scratch, swiglu_done));
  std::vector<RowLoraSegment> segments;
  for (size_t i = 0; i < args.terms.size(); ++i) {
    const LinearTerm& term = args.terms[i];
    if (HasDropout(term)) {
      RETURN_IF_ERROR(AddDropped(term, args, scratch.stream));
      continue;
    }
    for (const LoraSegment& lora : term.lora) {
      if (!fused.Takes(i, lora))
        AppendSegment(term, lora, args.x.as<BFloat16>(), args.x.stride(), segments);
    }
  }
  RETURN_IF_ERROR(AddSegments(segments, scratch.stream));
  return args.swiglu.empty() || swiglu_done ? absl::OkStatus()
                                            : SwiGluOfTerms(args, scratch.stream);
}

}  // namespace lorad::cuda
