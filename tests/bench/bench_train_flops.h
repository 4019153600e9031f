// How many floating-point operations a training step is.
#ifndef LORAD_TESTS_BENCH_BENCH_TRAIN_FLOPS_H_
#define LORAD_TESTS_BENCH_BENCH_TRAIN_FLOPS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/lora/adapter.h"
#include "engine/model/config.h"
#include "engine/plan/activation_checkpointing.h"

namespace lorad::bench {

// The products of engine/plan/flops.h; element-wise work and the optimiser are left out. As there,
// no backward pass below the lowest layer that is adapted.
struct StepFlops {
  double linears = 0, adapters = 0, attention = 0, head = 0;
  double recompute = 0;  // layers computed again: all of the above but the head

  double model() const { return linears + adapters + attention + head; }  // whatever the policy
  double total() const { return model() + recompute; }
};

// Of `batch` rows of `seq` tokens, all but each row's last with a target. Errors are those of
// CountTrainingStep.
absl::StatusOr<StepFlops> CountStepFlops(const ModelConfig& config, const HostAdapter& adapter,
                                         const ActivationCheckpointing& checkpointing,
                                         int64_t batch, int64_t seq);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_TRAIN_FLOPS_H_
