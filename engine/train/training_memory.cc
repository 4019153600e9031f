#include "engine/train/training_memory.h"

#include <algorithm>
#include <utility>

#include "engine/core/status_macros.h"
#include "engine/train/model_pass.h"

namespace lorad {

absl::StatusOr<TrainingMemory> LayOutTrainingMemory(const HostAdapter& adapter, Backend& backend,
                                                    const TokenCounts& tokens, Arena& arena) {
  ASSIGN_OR_RETURN(TrainableAdapter trainable, TrainableAdapter::Create(adapter, backend, arena));
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
                                                          const TokenCounts& tokens) {
  Arena arena = Arena::Measuring("training");
  ASSIGN_OR_RETURN(const TrainingMemory memory,
                   LayOutTrainingMemory(adapter, backend, tokens, arena));
  TrainingMemoryNeeds needs;
  needs.adapter_bytes = 4 * memory.adapter.params().size_bytes();
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

}  // namespace lorad
