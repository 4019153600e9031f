// How many floating point operations the engine carries out, from the model's shape alone. By the
// convention of core/flop_counter.h, equal to what the CPU's ops count while they run; on another
// device kTiling differs, and a GPU multiplies rows without a label in the head and decodes a layer
// once for its recompute and backward passes where it has the room (engine/train/model_pass.h).
#ifndef LORAD_ENGINE_PLAN_FLOPS_H_
#define LORAD_ENGINE_PLAN_FLOPS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/core/quant_spec.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"
#include "engine/plan/activation_checkpointing.h"
#include "engine/plan/flop_count.h"
#include "engine/plan/optimizer_kind.h"

namespace lorad {

struct AdaptedModule {
  ModuleId id;
  int64_t rank = 0;  // in [1, the smaller of the module's features]
};

// A base model whose linears are stored as `quant`, and the adapter on it.
struct AdaptedModel {
  ModelConfig config;
  QuantSpec quant;
  std::vector<AdaptedModule> modules;  // distinct, in any order
};
// These projections of the layers from `first_layer` on, at one rank.
std::vector<AdaptedModule> AdaptProjections(const ModelConfig& config,
                                            absl::Span<const Projection> projections, int64_t rank,
                                            int64_t first_layer = 0);
// Parameters of the adapter. REQUIRES: CheckAdaptedModel.
int64_t AdapterParameterCount(const AdaptedModel& model);
// CheckPlannable, and the modules: kInvalidArgument names the module, the value and the bound.
absl::Status CheckAdaptedModel(const AdaptedModel& model);

// What PlanOp::kTiling is made of. `keys` is a multiple of `queries`.
struct FlopTiles {
  int64_t queries = 1;  // of a tile of attention: keys after a query, up to the tile's end, cost
  int64_t keys = int64_t{1} << 32;  // of a tile: for each after the first a row's sum is scaled
  int64_t rows = int64_t{1} << 48;  // of a matrix product: weights are decoded again for each tile
};
inline constexpr FlopTiles kNoTiles{};  // what is needed: kTiling is 0
inline constexpr FlopTiles kCpuTiles{.queries = 64, .keys = 512, .rows = 256};

// Sequences of one length.
struct SequenceGroup {
  int64_t length = 0;  // tokens; in [1, 2^32]
  int64_t count = 1;   // in [1, 2^32]; of all groups together no more than 2^40 tokens
};

struct MicroBatchShape {
  std::vector<SequenceGroup> sequences;  // packed, without padding
  int64_t target_tokens = -1;  // that the loss is taken of; -1: all but the first of each sequence
};

struct TrainingShape {
  std::vector<MicroBatchShape> micro_batches;
  ActivationCheckpointing checkpointing;
  bool dropout = false;
  OptimizerKind optimizer = OptimizerKind::kAdamW;
};

// One optimiser step, as TrainStep runs it. No gradient below the lowest adapted layer, none of
// frozen weights. kInvalidArgument names what is out of range; kOutOfRange if 64 bits do not hold
// the sum. So do the others.
absl::StatusOr<FlopCount> CountTrainingStep(const AdaptedModel& model, const TrainingShape& shape,
                                            const FlopTiles& tiles = kNoTiles);

struct PrefillShape {
  int64_t prompt_tokens = 0;  // of one sequence, the cached ones included
  int64_t cached_tokens = 0;  // a prefix whose keys are there; less than prompt_tokens
  int64_t chunk_tokens = 0;   // of a pass, which decodes the weights once; 0: one pass
};
// A prompt up to the logits of its last token.
absl::StatusOr<FlopCount> CountPrefill(const AdaptedModel& model, const PrefillShape& shape,
                                       const FlopTiles& tiles = kNoTiles);

// A token for each sequence in one pass, up to its logits; `contexts` have the keys that the token
// sees, itself included, as their lengths. All use the adapter.
absl::StatusOr<FlopCount> CountDecode(const AdaptedModel& model,
                                      absl::Span<const SequenceGroup> contexts);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_FLOPS_H_
