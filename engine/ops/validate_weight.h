#ifndef LORAD_ENGINE_OPS_VALIDATE_WEIGHT_H_
#define LORAD_ENGINE_OPS_VALIDATE_WEIGHT_H_

#include "absl/status/status.h"
#include "engine/ops/weight.h"

namespace lorad::ops {

// The parts of a weight have the sizes that its spec and features demand. `op` begins the message.
absl::Status ValidateWeight(const char* op, const WeightView& weight);

}  // namespace lorad::ops

#endif  // LORAD_ENGINE_OPS_VALIDATE_WEIGHT_H_
