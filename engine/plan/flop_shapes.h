// What operations are counted of: a model with an adapter, and the tokens that go through it.
#ifndef LORAD_ENGINE_PLAN_FLOP_SHAPES_H_
#define LORAD_ENGINE_PLAN_FLOP_SHAPES_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/core/quant_spec.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"
#include "engine/plan/activation_checkpointing.h"
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
// Parameters of the adapter. REQUIRES: Check(model).
int64_t AdapterParameterCount(const AdaptedModel& model);

// Sequences of one length.
struct SequenceGroup {
  int64_t length = 0;  // tokens; in [1, 2^32]
  int64_t count = 1;   // in [1, 2^32]; of all groups together no more than 2^40 tokens
};

struct MicroBatchShape {
  std::vector<SequenceGroup> sequences;  // packed, without padding
  int64_t target_tokens = -1;  // that the loss is taken of; -1: all but the first of each sequence
  int64_t count = 1;           // of such micro-batches; in [1, 2^32]

  int64_t tokens() const;   // of one
  int64_t targets() const;  // of one
};

struct TrainingShape {
  std::vector<MicroBatchShape> micro_batches;
  ActivationCheckpointing checkpointing;
  bool dropout = false;
  OptimizerKind optimizer = OptimizerKind::kAdamW;
};

struct PrefillShape {
  int64_t prompt_tokens = 0;  // the cached ones included; of all prompts at most 2^40
  int64_t cached_tokens = 0;  // a prefix whose keys are there; less than prompt_tokens
  int64_t chunk_tokens = 0;   // of a pass, which decodes the weights once; 0: one pass
  int64_t prompts = 1;        // of this kind, one after another; in [1, 2^32]
};
// kInvalidArgument names the field, the value and the bound; the model passes CheckPlannable too.
// Sums over a shape that passes fit 128 bits (FlopSheet).
absl::Status Check(const AdaptedModel& model);
absl::Status Check(const AdaptedModel& model, const TrainingShape& shape);
absl::Status Check(const AdaptedModel& model, const PrefillShape& shape);
absl::Status Check(const AdaptedModel& model, absl::Span<const SequenceGroup> sequences);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_FLOP_SHAPES_H_
