#include "engine/ops/rope.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"

namespace lorad {

absl::Status Validate(const RopeArgs& args) {
  RETURN_IF_ERROR(ops::CheckActivation("rope", "x", args.x));
  RETURN_IF_ERROR(ops::CheckDims("rope", "x", args.x, 3));
  RETURN_IF_ERROR(ops::CheckThat(args.x.shape[2] % 2 == 0, "rope", "head_dim",
                                 static_cast<double>(args.x.shape[2]), "even"));
  RETURN_IF_ERROR(ops::CheckDType("rope", "positions", args.positions, DType::kI32));
  RETURN_IF_ERROR(ops::CheckDType("rope", "inv_freq", args.inv_freq, DType::kF32));
  RETURN_IF_ERROR(ops::CheckShape("rope", "positions", args.positions, {args.x.shape[0]}));
  return ops::CheckShape("rope", "inv_freq", args.inv_freq, {args.x.shape[2] / 2});
}

}  // namespace lorad
