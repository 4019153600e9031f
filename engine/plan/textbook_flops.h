// How many floating point operations a decoder takes by the rules that textbooks count with:
// simpler than the engine's own account (engine/plan/flops.h), and for training all weights too.
#ifndef LORAD_ENGINE_PLAN_TEXTBOOK_FLOPS_H_
#define LORAD_ENGINE_PLAN_TEXTBOOK_FLOPS_H_

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/plan/flops.h"

namespace lorad {

// Forward:
//   dot product of n terms                    2 n
//   matrix product [n, m] [m, p]              2 n m p: projections, MLP, head, A and B, and
//                                             attention over all s^2 pairs of a sequence, masked or
//                                             not
//   softmax, cross entropy                    5 a score: scale, shift, exponential, sum, quotient
//   norm                                      20 a feature and token
//   rotary embedding                          3 a feature of q and k: two products and a sum
//   silu(gate) * up                           5 a feature: exponential, sum, quotient, two products
//   decoding a k-bit weight                   1
// Backward twice the forward pass, but once for products with frozen weights, which have no
// gradient of their own, and for decoding. Recompute: the forward pass of every layer but those of
// the last segment. Adam takes 15 operations a trained parameter. Biases, dropout and residual
// connections are left out.
// Sources: Austin et al., "How To Scale Your Model", 2025, chapter 4 (dot products, matrices, the
// backward pass); Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022,
// appendix F (by operation; backward twice the forward pass).
//
// `trains_all`: all weights instead of adapters; model.modules is empty then, and the weights are
// not quantised. Errors are those of CountTrainingStep.
absl::StatusOr<FlopCount> CountTextbookStep(const AdaptedModel& model, const TrainingShape& shape,
                                            bool trains_all);
// As CountPrefill and CountDecode; chunks do not matter.
absl::StatusOr<FlopCount> CountTextbookPrefill(const AdaptedModel& model,
                                               const PrefillShape& shape);
absl::StatusOr<FlopCount> CountTextbookDecode(const AdaptedModel& model,
                                              absl::Span<const SequenceGroup> contexts);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_TEXTBOOK_FLOPS_H_
