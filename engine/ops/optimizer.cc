#include "engine/ops/optimizer.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"

namespace lorad {

absl::Status Validate(const AdamWArgs& args) {
  RETURN_IF_ERROR(ops::CheckThat(args.learning_rate >= 0, "adamw", "learning_rate",
                                 args.learning_rate, ">= 0"));
  RETURN_IF_ERROR(
      ops::CheckThat(args.beta1 >= 0 && args.beta1 < 1, "adamw", "beta1", args.beta1, "in [0, 1)"));
  RETURN_IF_ERROR(
      ops::CheckThat(args.beta2 >= 0 && args.beta2 < 1, "adamw", "beta2", args.beta2, "in [0, 1)"));
  RETURN_IF_ERROR(ops::CheckThat(args.eps > 0, "adamw", "eps", args.eps, "> 0"));
  RETURN_IF_ERROR(
      ops::CheckThat(args.weight_decay >= 0, "adamw", "weight_decay", args.weight_decay, ">= 0"));
  RETURN_IF_ERROR(
      ops::CheckThat(args.step >= 1, "adamw", "step", static_cast<double>(args.step), ">= 1"));
  for (const AdamWTensor& tensor : args.tensors) {
    RETURN_IF_ERROR(ops::CheckLike("adamw", "grad", tensor.grad, tensor.param));
    RETURN_IF_ERROR(ops::CheckLike("adamw", "m", tensor.m, tensor.param));
    RETURN_IF_ERROR(ops::CheckLike("adamw", "v", tensor.v, tensor.param));
  }
  return absl::OkStatus();
}

absl::Status Validate(const SumSquaresArgs& args) {
  RETURN_IF_ERROR(ops::CheckDType("sum_squares", "out", args.out, DType::kF64));
  return ops::CheckShape("sum_squares", "out", args.out, {1});
}

}  // namespace lorad
