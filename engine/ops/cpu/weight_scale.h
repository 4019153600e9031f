#ifndef LORAD_ENGINE_OPS_CPU_WEIGHT_SCALE_H_
#define LORAD_ENGINE_OPS_CPU_WEIGHT_SCALE_H_

#include <cstdint>

#include "engine/ops/weight.h"

namespace lorad::cpu {

// absmax(block) of engine/ops/weight.h.
inline float WeightScale(const WeightView& weight, int64_t block) {
  if (!weight.spec.double_quant) return static_cast<const float*>(weight.scales.data)[block];
  const uint8_t code = static_cast<const uint8_t*>(weight.scales_u8.data)[block];
  // The product is rounded before the sum: no fused multiply-add, or the bits differ.
  const float product = static_cast<const float*>(weight.nested_code.data)[code] *
                        static_cast<const float*>(weight.nested_scales.data)[block / kNestedBlock];
  return product + weight.nested_offset;
}

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_WEIGHT_SCALE_H_
