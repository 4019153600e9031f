#include "engine/ops/cross_entropy.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"
#include "engine/ops/validate_weight.h"

namespace lorad {

absl::Status Validate(const LinearCrossEntropyArgs& args) {
  constexpr char kOp[] = "linear_cross_entropy";
  RETURN_IF_ERROR(ops::ValidateWeight(kOp, args.head));
  RETURN_IF_ERROR(ops::CheckActivation(kOp, "hidden", args.hidden));
  RETURN_IF_ERROR(ops::CheckDims(kOp, "hidden", args.hidden, 2));
  const int64_t num_tokens = args.hidden.shape[0];
  RETURN_IF_ERROR(ops::CheckShape(kOp, "hidden", args.hidden, {num_tokens, args.head.in_features}));
  RETURN_IF_ERROR(ops::CheckDType(kOp, "labels", args.labels, DType::kI32));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "labels", args.labels, {num_tokens}));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "loss", args.loss, {num_tokens}));
  RETURN_IF_ERROR(ops::CheckDType(kOp, "loss", args.loss, ops::WideDType(args.hidden.dtype)));
  if (args.dhidden.empty()) return absl::OkStatus();
  return ops::CheckLike(kOp, "dhidden", args.dhidden, args.hidden);
}

}  // namespace lorad
