#include "engine/ops/dequantize.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"
#include "engine/ops/validate_weight.h"

namespace lorad {

absl::Status Validate(const DequantizeArgs& args) {
  RETURN_IF_ERROR(ops::ValidateWeight("dequantize", args.weight));
  RETURN_IF_ERROR(ops::CheckActivation("dequantize", "out", args.out));
  return ops::CheckShape("dequantize", "out", args.out,
                         {args.weight.out_features, args.weight.in_features});
}

}  // namespace lorad
