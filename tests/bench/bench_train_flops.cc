#include "tests/bench/bench_train_flops.h"

#include <initializer_list>

#include "engine/core/status_macros.h"
#include "engine/plan/flops.h"

namespace lorad::bench {
namespace {

// Forward and backward; what is computed again goes to `recompute`.
double Sum(const FlopCount& count, std::initializer_list<PlanOp> ops, double& recompute) {
  int64_t flops = 0;
  for (const PlanOp op : ops) {
    flops += count[op][FlopPhase::kForward] + count[op][FlopPhase::kBackward];
    recompute += static_cast<double>(count[op][FlopPhase::kRecompute]);
  }
  return static_cast<double>(flops);
}

}  // namespace

absl::StatusOr<StepFlops> CountStepFlops(const ModelConfig& config, const HostAdapter& adapter,
                                         const ActivationCheckpointing& checkpointing,
                                         int64_t batch, int64_t seq) {
  AdaptedModel model{.config = config, .quant = {}, .modules = {}};
  for (const AdapterModule& module : adapter.modules)
    model.modules.push_back({module.id, module.rank});
  const TrainingShape shape{.micro_batches = {{.sequences = {{seq, batch}}}},
                            .checkpointing = checkpointing};
  ASSIGN_OR_RETURN(const FlopCount count, CountTrainingStep(model, shape));
  StepFlops flops;
  flops.linears =
      Sum(count, {PlanOp::kQkv, PlanOp::kOutput, PlanOp::kGateUp, PlanOp::kDown}, flops.recompute);
  flops.adapters = Sum(count, {PlanOp::kLora}, flops.recompute);
  flops.attention = Sum(count, {PlanOp::kScores, PlanOp::kValues}, flops.recompute);
  flops.head = Sum(count, {PlanOp::kHead}, flops.recompute);
  return flops;
}

}  // namespace lorad::bench
