#include "engine/ops/swiglu.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"

namespace lorad {

absl::Status Validate(const SwiGluArgs& args) {
  RETURN_IF_ERROR(ops::CheckActivation("swiglu", "gate", args.gate));
  RETURN_IF_ERROR(ops::CheckLike("swiglu", "up", args.up, args.gate));
  return ops::CheckLike("swiglu", "out", args.out, args.gate);
}

absl::Status Validate(const SwiGluBackwardArgs& args) {
  constexpr char kOp[] = "swiglu_backward";
  RETURN_IF_ERROR(ops::CheckActivation(kOp, "gate", args.gate));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "up", args.up, args.gate));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "dout", args.dout, args.gate));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "dgate", args.dgate, args.gate));
  RETURN_IF_ERROR(ops::CheckLike(kOp, "dup", args.dup, args.gate));
  if (args.dgate.data == args.dup.data && args.dup.num_elements() > 0) {
    return absl::InvalidArgumentError(
        "swiglu_backward: dgate and dup are the same tensor; give each its own");
  }
  return absl::OkStatus();
}

}  // namespace lorad
