// How many floating-point operations a training step is.
#ifndef LORAD_TESTS_BENCH_BENCH_TRAIN_FLOPS_H_
#define LORAD_TESTS_BENCH_BENCH_TRAIN_FLOPS_H_

#include <cstdint>

#include "engine/lora/adapter.h"
#include "engine/model/config.h"
#include "engine/plan/activation_checkpointing.h"

namespace lorad::bench {

// Multiply-adds count two. With T tokens:
//   frozen linear of N parameters   forward 2 N T; backward 2 N T, its input's gradient alone
//   adapter of N parameters         forward 2 N T; backward 4 N T, its own gradient too
//   attention                       forward 4, backward 10 times query features times the pairs of
//                                   a token and one that it sees: two products, five products
//   head                            forward 2, backward 2 times vocab * hidden * target tokens
// There is no backward pass below the lowest layer that is adapted. Element-wise work and the
// optimiser are left out.
struct StepFlops {
  double linears = 0, adapters = 0, attention = 0, head = 0;
  double recompute = 0;  // layers computed again: all of the above but the head

  double model() const { return linears + adapters + attention + head; }  // whatever the policy
  double total() const { return model() + recompute; }
};

// Of `batch` rows of `seq` tokens, all but each row's last with a target.
StepFlops CountStepFlops(const ModelConfig& config, const HostAdapter& adapter,
                         const ActivationCheckpointing& checkpointing, int64_t batch, int64_t seq);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_TRAIN_FLOPS_H_
