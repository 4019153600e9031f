// How many floating point operations the engine carries out, from the model's shape alone. By the
// convention of core/flop_counter.h, equal to what the CPU's ops count while they run; on another
// device kTiling differs, and a GPU multiplies rows without a label in the head and decodes a layer
// once for its recompute and backward passes where it has the room (engine/train/model_pass.h).
#ifndef LORAD_ENGINE_PLAN_FLOPS_H_
#define LORAD_ENGINE_PLAN_FLOPS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/plan/flop_count.h"
#include "engine/plan/flop_shapes.h"

namespace lorad {

// What PlanOp::kTiling is made of. `keys` is a multiple of `queries`.
struct FlopTiles {
  int64_t queries = 1;  // of a tile of attention: keys after a query, up to the tile's end, cost
  int64_t keys = int64_t{1} << 32;  // of a tile: for each after the first a row's sum is scaled
  int64_t rows = int64_t{1} << 48;  // of a matrix product: weights are decoded again for each tile
};
inline constexpr FlopTiles kNoTiles{};  // what is needed: kTiling is 0
inline constexpr FlopTiles kCpuTiles{.queries = 64, .keys = 512, .rows = 256};

// One optimiser step, as TrainStep runs it. No gradient below the lowest adapted layer, none of
// frozen weights. kInvalidArgument names what is out of range; kOutOfRange if 64 bits do not hold
// the sum. So do the others.
absl::StatusOr<FlopCount> CountTrainingStep(const AdaptedModel& model, const TrainingShape& shape,
                                            const FlopTiles& tiles = kNoTiles);

// Prompts up to the logits of their last tokens.
absl::StatusOr<FlopCount> CountPrefill(const AdaptedModel& model, const PrefillShape& shape,
                                       const FlopTiles& tiles = kNoTiles);

// A token for each sequence in one pass, up to its logits; `contexts` have the keys that the token
// sees, itself included, as their lengths. All use the adapter.
absl::StatusOr<FlopCount> CountDecode(const AdaptedModel& model,
                                      absl::Span<const SequenceGroup> contexts);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_FLOPS_H_
