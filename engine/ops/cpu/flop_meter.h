#ifndef LORAD_ENGINE_OPS_CPU_FLOP_METER_H_
#define LORAD_ENGINE_OPS_CPU_FLOP_METER_H_

#include <cstdint>

#include "engine/core/flop_counter.h"

namespace lorad::cpu {

// What kernels report the operations of each piece of work to, by the bounds that it ran with.
// Without a counter a report is a branch. Thread-safe.
class FlopMeter {
 public:
  // `counter` is not owned; null: nobody counts.
  explicit FlopMeter(FlopCounter* counter = nullptr) : counter_(counter) {}

  void Forward(FlopOp op, int64_t flops) const { Add(op, FlopPass::kForward, flops); }
  void Backward(FlopOp op, int64_t flops) const { Add(op, FlopPass::kBackward, flops); }
  void Add(FlopOp op, FlopPass pass, int64_t flops) const {
    if (counter_ != nullptr) counter_->Add(op, pass, flops);
  }

 private:
  FlopCounter* counter_;
};

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_FLOP_METER_H_
