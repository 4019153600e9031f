#ifndef LORAD_ENGINE_OPS_DEQUANTIZE_H_
#define LORAD_ENGINE_OPS_DEQUANTIZE_H_

#include "absl/status/status.h"
#include "engine/core/tensor_view.h"
#include "engine/ops/weight.h"

namespace lorad {

// out = the values of a weight, as WeightView defines them: already rounded to bf16.
struct DequantizeArgs {
  WeightView weight;
  TensorView out;  // kBF16, kF32 or kF64 [out_features, in_features]
};
absl::Status Validate(const DequantizeArgs& args);

}  // namespace lorad

#endif  // LORAD_ENGINE_OPS_DEQUANTIZE_H_
