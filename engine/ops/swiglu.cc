#include "engine/ops/swiglu.h"

#include "engine/core/status_macros.h"
#include "engine/ops/check_args.h"

namespace lorad {

absl::Status Validate(const SwiGluArgs& args) {
  RETURN_IF_ERROR(ops::CheckShape("swiglu", "up", args.up, args.gate.shape));
  return ops::CheckShape("swiglu", "out", args.out, args.gate.shape);
}

absl::Status Validate(const SwiGluBackwardArgs& args) {
  RETURN_IF_ERROR(ops::CheckShape("swiglu_backward", "up", args.up, args.gate.shape));
  RETURN_IF_ERROR(ops::CheckShape("swiglu_backward", "dout", args.dout, args.gate.shape));
  RETURN_IF_ERROR(ops::CheckShape("swiglu_backward", "dgate", args.dgate, args.gate.shape));
  RETURN_IF_ERROR(ops::CheckShape("swiglu_backward", "dup", args.dup, args.gate.shape));
  return ops::CheckThat(args.dgate.data != args.dup.data || args.dup.num_elements() == 0,
                        "swiglu_backward", "dgate == dup", 1, "two different tensors");
}

}  // namespace lorad
