#include "engine/ops/optimizer.h"

#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"

namespace lorad {
namespace {

absl::Status CheckMoment(const char* name, const char* scales_name, const TensorView& moment,
                         const TensorView& scales, const TensorView& param) {
  RETURN_IF_ERROR(ops::CheckShape("adamw", name, moment, param.shape));
  RETURN_IF_ERROR(ops::CheckDType("adamw", name, moment, DType::kU8));
  RETURN_IF_ERROR(ops::CheckDType("adamw", scales_name, scales, DType::kF32));
  return ops::CheckShape("adamw", scales_name, scales,
                         {CeilDiv(param.num_elements(), kMomentBlock)});
}

absl::Status CheckEightBit(const AdamWTensor& tensor) {
  RETURN_IF_ERROR(ops::CheckDType("adamw", "param", tensor.param, DType::kF32));
  RETURN_IF_ERROR(CheckMoment("m", "m_scales", tensor.m, tensor.m_scales, tensor.param));
  return CheckMoment("v", "v_scales", tensor.v, tensor.v_scales, tensor.param);
}

absl::Status CheckFull(const AdamWTensor& tensor) {
  RETURN_IF_ERROR(ops::CheckLike("adamw", "m", tensor.m, tensor.param));
  return ops::CheckLike("adamw", "v", tensor.v, tensor.param);
}

absl::Status CheckCode(const char* name, const ConstTensorView& code) {
  RETURN_IF_ERROR(ops::CheckDType("adamw", name, code, DType::kF32));
  return ops::CheckShape("adamw", name, code, {256});
}

}  // namespace

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
  const bool eight_bit = HasEightBitMoments(args);
  for (const AdamWTensor& tensor : args.tensors) {
    RETURN_IF_ERROR(ops::CheckLike("adamw", "grad", tensor.grad, tensor.param));
    RETURN_IF_ERROR(eight_bit ? CheckEightBit(tensor) : CheckFull(tensor));
  }
  if (!eight_bit) return absl::OkStatus();
  RETURN_IF_ERROR(CheckCode("m_code", args.m_code));
  return CheckCode("v_code", args.v_code);
}

absl::Status Validate(const SumSquaresArgs& args) {
  RETURN_IF_ERROR(ops::CheckDType("sum_squares", "out", args.out, DType::kF64));
  return ops::CheckShape("sum_squares", "out", args.out, {1});
}

}  // namespace lorad
