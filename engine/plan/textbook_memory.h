// What automatic differentiation keeps of an unfused decoder: the sums of textbooks.
#ifndef LORAD_ENGINE_PLAN_TEXTBOOK_MEMORY_H_
#define LORAD_ENGINE_PLAN_TEXTBOOK_MEMORY_H_

#include "absl/status/statusor.h"
#include "engine/plan/memory_plan.h"

namespace lorad {

// Parameters times precision, gradients in the same precision, two fp32 moments each, and for each
// layer and token of hidden size h (activations in the precision of the weights, 16 bits over k-bit
// ones):
//   2 h      the inputs of both norms
//   h        the input of q, k and v
//   q, k, v  as wide as the model has them
//   2 heads * sequence      scores and their softmax
//   heads * head_dim        the input of the output projection
//   h + 2 intermediate      the MLP's input, gate and up; their product is computed again
// then logits and their gradient. Inference takes weights, the KV cache in 16 bits (fp32 for fp32
// models) and one layer's activations. REQUIRES: Validate(request).
absl::StatusOr<MemoryPlan> PlanTextbook(const MemoryRequest& request);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_TEXTBOOK_MEMORY_H_
