// Which tensor of a checkpoint is which weight of a model. Internal to engine/model.
#ifndef LORAD_ENGINE_MODEL_CHECKPOINT_PLAN_H_
#define LORAD_ENGINE_MODEL_CHECKPOINT_PLAN_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/core/quant_spec.h"
#include "engine/io/safetensors_checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"

namespace lorad {

// The parts of a matrix as bitsandbytes stores it (Linear4bit in safetensors).
struct BitsAndBytesParts {
  QuantSpec spec;
  const SafetensorsEntry* absmax = nullptr;            // F32 [blocks]; U8 with double quantisation
  const SafetensorsEntry* quant_map = nullptr;         // F32 [16]
  const SafetensorsEntry* nested_absmax = nullptr;     // F32 [ceil(blocks / 256)]
  const SafetensorsEntry* nested_quant_map = nullptr;  // F32 [256]
  float nested_offset = 0;
};

// Entries are the checkpoint's.
struct LinearSource {
  std::string path;  // of the module
  int64_t out_features = 0;
  int64_t in_features = 0;
  const SafetensorsEntry* weight = nullptr;  // BF16, F16, F32 [out, in]; packed codes if `packed`
  std::optional<BitsAndBytesParts> packed;
  const SafetensorsEntry* bias = nullptr;  // null: none
};

struct LayerSource {
  const SafetensorsEntry* input_norm = nullptr;
  const SafetensorsEntry* post_attention_norm = nullptr;
  std::array<LinearSource, kNumProjections> linear;
};

struct CheckpointPlan {
  const SafetensorsEntry* embedding = nullptr;   // [vocab, hidden]
  const SafetensorsEntry* final_norm = nullptr;  // [hidden]
  const SafetensorsEntry* head = nullptr;        // [vocab, hidden]; null when tied
  std::vector<LayerSource> layers;
  // The first matrix that bitsandbytes has quantised; the others have its spec and its maps. Null:
  // a 16 or 32 bit checkpoint.
  const LinearSource* packed = nullptr;
};

// Finds every tensor that the config asks for and checks its dtype and shape; nothing is read but
// headers and bitsandbytes' small tensors. kNotFound names a missing tensor; kInvalidArgument a
// misshapen one, or one that the model has no use for (it would be dropped silently; `inv_freq`
// buffers, and a head beside tied embeddings, are what transformers drops too); kUnimplemented a
// bitsandbytes layout that is not supported.
absl::StatusOr<CheckpointPlan> PlanCheckpoint(const ModelConfig& config,
                                              const SafetensorsCheckpoint& checkpoint);

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_CHECKPOINT_PLAN_H_
