// Argument checks that the Validate functions share. Private to engine/ops.
#ifndef LORAD_ENGINE_OPS_CHECK_ARGS_H_
#define LORAD_ENGINE_OPS_CHECK_ARGS_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/tensor_view.h"

namespace lorad::ops {

// kInvalidArgument "op: name is [2, 3], expected [2, 4]" unless the shapes are equal.
inline absl::Status CheckShape(const char* op, const char* name, const ConstTensorView& view,
                               const Shape& expected) {
  if (view.shape == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(op, ": ", name, " is ", view.shape.ToString(),
                                                 ", expected ", expected.ToString()));
}
inline absl::Status CheckDType(const char* op, const char* name, const ConstTensorView& view,
                               DType expected) {
  if (view.dtype == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": ", name, " is ", Name(view.dtype), ", expected ", Name(expected)));
}
// An activation: kF32, kBF16, or kF64 where gradients are checked.
inline absl::Status CheckActivation(const char* op, const char* name, const ConstTensorView& view) {
  if (view.dtype == DType::kF32 || view.dtype == DType::kBF16 || view.dtype == DType::kF64) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": ", name, " is ", Name(view.dtype), ", expected F32, BF16 or F64"));
}
// Shape and dtype of `like`.
inline absl::Status CheckLike(const char* op, const char* name, const ConstTensorView& view,
                              const ConstTensorView& like) {
  if (absl::Status status = CheckShape(op, name, view, like.shape); !status.ok()) return status;
  return CheckDType(op, name, view, like.dtype);
}
// What goes with activations of this dtype: adapters, statistics, losses.
inline DType WideDType(DType activation) {
  return activation == DType::kF64 ? DType::kF64 : DType::kF32;
}
inline absl::Status CheckDims(const char* op, const char* name, const ConstTensorView& view,
                              int dims) {
  if (view.shape.num_dims() == dims) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(op, ": ", name, " is ", view.shape.ToString(),
                                                 ", expected ", dims, " dimensions"));
}
inline absl::Status CheckThat(bool condition, const char* op, const char* what, double value,
                              const char* bound) {
  if (condition) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": ", what, " is ", value, ", must be ", bound));
}

}  // namespace lorad::ops

#endif  // LORAD_ENGINE_OPS_CHECK_ARGS_H_
