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

bool HasLora(const LinearArgs& args) {
  return std::any_of(args.terms.begin(), args.terms.end(),
                     [](const LinearTerm& term) { return !term.lora.empty(); });
}

// `swiglu_done`: whether the products ended in it.
absl::Status MultiplyWeights(const LinearArgs& args, const LinearScratch& scratch,
                             bool& swiglu_done) {
  const RowProductScratch partial = {
      scratch.lt_workspace, static_cast<int64_t>(scratch.lt_workspace_bytes), scratch.counters};
  std::array<RowProductTerm, kMaxRowProductTerms> products;
  for (size_t first = 0; first < args.terms.size(); first += products.size()) {
    const absl::Span<LinearTerm> terms = args.terms.subspan(first, products.size());
    for (size_t i = 0; i < terms.size(); ++i) {
      const LinearTerm& term = terms[i];
      RowProductTerm& product = products[i];
      product.weight = ToPackedWeight(term.weight, /*row_offset=*/0);
      product.bias = term.bias.empty() ? nullptr : term.bias.as<float>();
      product.y = term.y.as<BFloat16>();
      product.y_stride = term.y.stride();
      const ConstTensorView residual = args.accumulate ? term.y : args.residual;
      product.residual = residual.empty() ? nullptr : residual.as<BFloat16>();
      product.residual_stride = residual.empty() ? 0 : residual.stride();
    }
    const BFloat16* const x = args.x.as<BFloat16>();
    const auto count = static_cast<int>(terms.size());
    RowProductNorm norm;
    if (!args.norm.x.empty()) {
      norm = {args.norm.x.as<BFloat16>(), args.norm.x.stride(), args.norm.gamma.as<float>(),
              args.norm.eps};
      const bool begins = !HasLora(args) && terms.size() == args.terms.size() &&
                          CanBeginWithNorm(norm, args.x.shape[0], products.data(), count);
      if (!begins) {
        if (first == 0) RETURN_IF_ERROR(NormOfX(args, scratch.stream));
        norm = {};
      }
    }
    RowProductSwiGlu swiglu;
    swiglu_done = !args.swiglu.empty() && !HasLora(args) &&
                  CanEndInSwiGlu(x, args.x.stride(), args.x.shape[0], products.data(), count);
    if (swiglu_done) swiglu = {args.swiglu.as<BFloat16>(), args.swiglu.stride()};
    RETURN_IF_ERROR(ToStatus(LaunchRowProduct(x, args.x.stride(), args.x.shape[0], products.data(),
                                              count, partial, scratch.stream, swiglu, norm),
                             "row product"));
  }
  return absl::OkStatus();
}

// The segments of `term` with input x, which has the rows of the batch.
void AppendSegments(const LinearTerm& term, const BFloat16* x, int64_t x_stride,
                    std::vector<RowLoraSegment>& segments) {
  for (const LoraSegment& lora : term.lora) {
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
  AppendSegments(term, dropped, columns, segments);
  return AddSegments(segments, stream);
}

}  // namespace

absl::Status NormOfX(const LinearArgs& args, cudaStream_t stream) {
  const LinearNorm& norm = args.norm;
  return ToStatus(LaunchRmsNorm(norm.x.as<BFloat16>(), norm.x.stride(), norm.gamma.as<float>(),
                                norm.y.as<BFloat16>(), norm.y.stride(), /*inv_rms=*/nullptr,
                                norm.x.shape[0], norm.x.shape[1], norm.eps, stream),
                  "rms_norm");
}

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
  bool swiglu_done = false;
  RETURN_IF_ERROR(MultiplyWeights(args, scratch, swiglu_done));
  std::vector<RowLoraSegment> segments;
  for (const LinearTerm& term : args.terms) {
    if (HasDropout(term)) {
      RETURN_IF_ERROR(AddDropped(term, args, scratch.stream));
    } else {
      AppendSegments(term, args.x.as<BFloat16>(), args.x.stride(), segments);
    }
  }
  RETURN_IF_ERROR(AddSegments(segments, scratch.stream));
  return args.swiglu.empty() || swiglu_done ? absl::OkStatus()
                                            : SwiGluOfTerms(args, scratch.stream);
}

}  // namespace lorad::cuda
