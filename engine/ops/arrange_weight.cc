#include "engine/ops/arrange_weight.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"
#include "engine/ops/validate_weight.h"

namespace lorad {

absl::Status Validate(const ArrangeWeightArgs& args) {
  RETURN_IF_ERROR(ops::ValidateWeight("arrange_weight", *args.weight));
  if (!args.weight->tiled) return absl::OkStatus();
  return absl::InvalidArgumentError("arrange_weight: the weight is tiled already");
}

}  // namespace lorad
