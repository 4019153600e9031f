#include "engine/ops/rms_norm.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"

namespace lorad {

absl::Status Validate(const RmsNormArgs& args) {
  RETURN_IF_ERROR(ops::CheckActivation("rms_norm", "x", args.x));
  RETURN_IF_ERROR(ops::CheckDims("rms_norm", "x", args.x, 2));
  RETURN_IF_ERROR(ops::CheckLike("rms_norm", "y", args.y, args.x));
  RETURN_IF_ERROR(ops::CheckShape("rms_norm", "gamma", args.gamma, {args.x.shape[1]}));
  RETURN_IF_ERROR(ops::CheckDType("rms_norm", "gamma", args.gamma, DType::kF32));
  if (!args.inv_rms.empty()) {
    RETURN_IF_ERROR(ops::CheckShape("rms_norm", "inv_rms", args.inv_rms, {args.x.shape[0]}));
    RETURN_IF_ERROR(
        ops::CheckDType("rms_norm", "inv_rms", args.inv_rms, ops::WideDType(args.x.dtype)));
  }
  return ops::CheckThat(args.eps > 0, "rms_norm", "eps", args.eps, "> 0");
}

absl::Status Validate(const RmsNormBackwardArgs& args) {
  constexpr char kOp[] = "rms_norm_backward";
  RETURN_IF_ERROR(ops::CheckActivation(kOp, "x", args.x));
  RETURN_IF_ERROR(ops::CheckDims(kOp, "x", args.x, 2));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "dy", args.dy, args.x));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "dx", args.dx, args.x));
  RETURN_IF_ERROR(ops::CheckDType(kOp, "inv_rms", args.inv_rms, ops::WideDType(args.x.dtype)));
  RETURN_IF_ERROR(ops::CheckShape(kOp, "gamma", args.gamma, {args.x.shape[1]}));
  RETURN_IF_ERROR(ops::CheckDType(kOp, "gamma", args.gamma, DType::kF32));
  return ops::CheckShape(kOp, "inv_rms", args.inv_rms, {args.x.shape[0]});
}

}  // namespace lorad
