#include "engine/train/training_memory.h"

#include <algorithm>
#include <utility>

#include "engine/core/status_macros.h"
#include "engine/train/adapter_snapshot.h"
#include "engine/train/model_pass.h"

namespace lorad {

namespace {

// Of the input of a layer.
int64_t InputBytes(const ModelConfig& config, Backend& backend, int64_t num_tokens) {
  return num_tokens * config.hidden_size * SizeOf(backend.activation_dtype());
}

int64_t OffloadedBytes(const ModelConfig& config, Backend& backend,
                       const ActivationCheckpointing& checkpointing, int64_t num_tokens) {
  if (!checkpointing.offload) return 0;
  const int64_t segments = LayerSegments(config.num_layers, checkpointing).count();
  return InputOffload::Count(segments) * InputBytes(config, backend, num_tokens);
}

}  // namespace

absl::StatusOr<TrainingMemory> LayOutTrainingMemory(const HostAdapter& adapter, Backend& backend,
                                                    const TokenCounts& tokens, Arena& arena,
                                                    OptimizerKind kind) {
  ASSIGN_OR_RETURN(TrainableAdapter trainable,
                   TrainableAdapter::Create(adapter, backend, arena, kind));
  TrainingMemory memory{.adapter = std::move(trainable), .loss = {}, .norm = {}};
  const DType loss_type = backend.activation_dtype() == DType::kF64 ? DType::kF64 : DType::kF32;
  const int64_t most = std::max(tokens.step, tokens.eval_micro_batch);
  ASSIGN_OR_RETURN(memory.loss, arena.Allocate(loss_type, {most}));
  ASSIGN_OR_RETURN(memory.norm, arena.Allocate(DType::kF64, {1}));
  return memory;
}

absl::StatusOr<TrainingMemoryNeeds> MeasureTrainingMemory(const Model& model, Backend& backend,
                                                          const HostAdapter& adapter,
                                                          const PassOptions& training,
                                                          const TokenCounts& tokens,
                                                          OptimizerKind kind) {
  Arena arena = Arena::Measuring("training");
  ASSIGN_OR_RETURN(const TrainingMemory memory,
                   LayOutTrainingMemory(adapter, backend, tokens, arena, kind));
  TrainingMemoryNeeds needs;
  needs.adapter_bytes = memory.adapter.device_bytes();
  needs.pinned_bytes =
      memory.adapter.pinned_bytes() + AdapterSnapshot::BytesFor(memory.adapter) +
      OffloadedBytes(model.config(), backend, training.checkpointing, tokens.micro_batch);
  const int64_t mark = arena.Mark();
  ModelPass pass(model, backend, memory.adapter, training);
  ASSIGN_OR_RETURN(needs.workspace_bytes, pass.Measure(tokens.micro_batch, arena));
  if (tokens.eval_micro_batch > 0) {
    arena.Release(mark);
    ModelPass eval(model, backend, memory.adapter, PassOptions{});
    RETURN_IF_ERROR(eval.Measure(tokens.eval_micro_batch, arena).status());
  }
  needs.peak_bytes = arena.peak_bytes();
  needs.activation_bytes = needs.peak_bytes - needs.adapter_bytes - needs.workspace_bytes;
  return needs;
}

absl::StatusOr<std::unique_ptr<InputOffload>> CreateInputOffload(
    const ModelConfig& config, Backend& backend, const ActivationCheckpointing& checkpointing,
    int64_t num_tokens) {
  if (!checkpointing.offload) return nullptr;
  return InputOffload::Create(backend, LayerSegments(config.num_layers, checkpointing).count(),
                              InputBytes(config, backend, num_tokens));
}

}  // namespace lorad
