// What stands in a job's one block of device memory, and how large it must be.
#ifndef LORAD_ENGINE_TRAIN_TRAINING_MEMORY_H_
#define LORAD_ENGINE_TRAIN_TRAINING_MEMORY_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/core/arena.h"
#include "engine/device/backend.h"
#include "engine/lora/adapter.h"
#include "engine/model/weights.h"
#include "engine/train/model_pass.h"
#include "engine/train/trainable_adapter.h"

namespace lorad {

// The most tokens that anything in the job works on at once.
struct TokenCounts {
  int64_t micro_batch = 0;       // of training
  int64_t step = 0;              // all micro-batches of an optimiser step
  int64_t eval_micro_batch = 0;  // 0: no eval set
};

// What lives as long as the job; a pass over a micro-batch takes the rest of the block. Paged
// moments stand beside it, in pinned host memory that `adapter` owns.
struct TrainingMemory {
  TrainableAdapter adapter;
  TensorView loss;  // kF32 (kF64 in double precision) [the most tokens of a step]
  TensorView norm;  // kF64 [1]
};
absl::StatusOr<TrainingMemory> LayOutTrainingMemory(const HostAdapter& adapter, Backend& backend,
                                                    const TokenCounts& tokens, Arena& arena,
                                                    OptimizerKind kind = OptimizerKind::kAdamW);

struct TrainingMemoryNeeds {
  int64_t adapter_bytes = 0;     // weights, gradients, moments unless paged
  int64_t activation_bytes = 0;  // of one micro-batch, and the losses of a step
  int64_t workspace_bytes = 0;
  int64_t peak_bytes = 0;    // of the block: exact
  int64_t pinned_bytes = 0;  // of the host: paged moments, offloaded inputs, the snapshot
};
// `training` is how passes over the training set run. Runs the layout of the largest micro-batches
// over a measuring arena. Allocates nothing.
absl::StatusOr<TrainingMemoryNeeds> MeasureTrainingMemory(
    const Model& model, Backend& backend, const HostAdapter& adapter, const PassOptions& training,
    const TokenCounts& tokens, OptimizerKind kind = OptimizerKind::kAdamW);

// What passes over micro-batches of up to `num_tokens` offload to; null where `checkpointing` does
// not.
absl::StatusOr<std::unique_ptr<InputOffload>> CreateInputOffload(
    const ModelConfig& config, Backend& backend, const ActivationCheckpointing& checkpointing,
    int64_t num_tokens);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_TRAINING_MEMORY_H_
