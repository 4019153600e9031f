#include "engine/ops/linear.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"
#include "engine/ops/validate_weight.h"

namespace lorad {
namespace {

absl::Status ValidateSegments(const char* op, absl::Span<const LoraSegment> segments,
                              const WeightView& weight, const ConstTensorView& x, bool backward) {
  const int64_t num_tokens = x.shape[0];
  const DType adapter = ops::WideDType(x.dtype);
  int64_t previous_end = 0;
  for (const LoraSegment& segment : segments) {
    if (segment.row_begin < previous_end || segment.row_end < segment.row_begin ||
        segment.row_end > num_tokens) {
      return absl::InvalidArgumentError(
          absl::StrCat(op, ": LoRA rows [", segment.row_begin, ", ", segment.row_end,
                       ") overlap the segment before or pass the batch of ", num_tokens, " rows"));
    }
    previous_end = segment.row_end;
    RETURN_IF_ERROR(ops::CheckDims(op, "lora a", segment.a, 2));
    const int64_t rank = segment.a.shape[0];
    RETURN_IF_ERROR(ops::CheckShape(op, "lora a", segment.a, {rank, weight.in_features}));
    RETURN_IF_ERROR(ops::CheckShape(op, "lora b", segment.b, {weight.out_features, rank}));
    RETURN_IF_ERROR(
        ops::CheckShape(op, "lora xa", segment.xa, {segment.row_end - segment.row_begin, rank}));
    RETURN_IF_ERROR(ops::CheckDType(op, "lora xa", segment.xa, x.dtype));
    const bool served = !backward && segment.a.dtype == x.dtype;  // a copy for serving
    RETURN_IF_ERROR(ops::CheckDType(op, "lora a", segment.a, served ? x.dtype : adapter));
    RETURN_IF_ERROR(ops::CheckDType(op, "lora b", segment.b, segment.a.dtype));
    if (!backward) continue;
    RETURN_IF_ERROR(ops::CheckLike(op, "lora da", segment.da, segment.a));
    RETURN_IF_ERROR(ops::CheckLike(op, "lora db", segment.db, segment.b));
  }
  return absl::OkStatus();
}

absl::Status ValidateDropout(const char* op, const LoraDropout& dropout, int64_t num_tokens) {
  if (dropout.probability == 0) return absl::OkStatus();
  RETURN_IF_ERROR(ops::CheckThat(dropout.probability > 0 && dropout.probability < 1, op,
                                 "dropout probability", dropout.probability, "in [0, 1)"));
  RETURN_IF_ERROR(ops::CheckDType(op, "token_keys", dropout.token_keys, DType::kU64));
  return ops::CheckShape(op, "token_keys", dropout.token_keys, {num_tokens});
}

}  // namespace

absl::Status Validate(const LinearArgs& args) {
  RETURN_IF_ERROR(ops::CheckActivation("linear", "x", args.x));
  RETURN_IF_ERROR(ops::CheckDims("linear", "x", args.x, 2));
  const int64_t num_tokens = args.x.shape[0];
  if (!args.residual.empty()) {
    RETURN_IF_ERROR(ops::CheckThat(args.terms.size() == 1, "linear", "terms with a residual",
                                   static_cast<double>(args.terms.size()), "1"));
    RETURN_IF_ERROR(
        ops::CheckThat(!args.accumulate, "linear", "accumulate with a residual", 1, "false"));
    RETURN_IF_ERROR(ops::CheckLike("linear", "residual", args.residual, args.terms[0].y));
  }
  if (!args.swiglu.empty()) {
    RETURN_IF_ERROR(ops::CheckThat(args.terms.size() == 2, "linear", "terms with swiglu",
                                   static_cast<double>(args.terms.size()), "2"));
    RETURN_IF_ERROR(
        ops::CheckThat(!args.accumulate, "linear", "accumulate with swiglu", 1, "false"));
    for (const LinearTerm& term : args.terms)
      RETURN_IF_ERROR(ops::CheckLike("linear", "swiglu", args.swiglu, term.y));
  }
  for (const LinearTerm& term : args.terms) {
    RETURN_IF_ERROR(ops::ValidateWeight("linear", term.weight));
    RETURN_IF_ERROR(ops::CheckShape("linear", "x", args.x, {num_tokens, term.weight.in_features}));
    RETURN_IF_ERROR(ops::CheckShape("linear", "y", term.y, {num_tokens, term.weight.out_features}));
    RETURN_IF_ERROR(ops::CheckDType("linear", "y", term.y, args.x.dtype));
    if (!term.bias.empty()) {
      RETURN_IF_ERROR(ops::CheckDType("linear", "bias", term.bias, DType::kF32));
      RETURN_IF_ERROR(ops::CheckShape("linear", "bias", term.bias, {term.weight.out_features}));
    }
    RETURN_IF_ERROR(ValidateSegments("linear", term.lora, term.weight, args.x, false));
    RETURN_IF_ERROR(ValidateDropout("linear", term.dropout, num_tokens));
  }
  return absl::OkStatus();
}

absl::Status Validate(const LinearBackwardArgs& args) {
  constexpr char kOp[] = "linear_backward";
  RETURN_IF_ERROR(ops::CheckActivation(kOp, "x", args.x));
  RETURN_IF_ERROR(ops::CheckDims(kOp, "x", args.x, 2));
  const int64_t num_tokens = args.x.shape[0];
  if (!args.dx.empty()) RETURN_IF_ERROR(ops::CheckLike(kOp, "dx", args.dx, args.x));
  for (const LinearBackwardTerm& term : args.terms) {
    RETURN_IF_ERROR(ops::ValidateWeight(kOp, term.weight));
    RETURN_IF_ERROR(ops::CheckShape(kOp, "x", args.x, {num_tokens, term.weight.in_features}));
    RETURN_IF_ERROR(ops::CheckShape(kOp, "dy", term.dy, {num_tokens, term.weight.out_features}));
    RETURN_IF_ERROR(ops::CheckDType(kOp, "dy", term.dy, args.x.dtype));
    RETURN_IF_ERROR(ValidateSegments(kOp, term.lora, term.weight, args.x, true));
    RETURN_IF_ERROR(ValidateDropout(kOp, term.dropout, num_tokens));
  }
  return absl::OkStatus();
}

}  // namespace lorad
