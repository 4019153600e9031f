// Learning rates over a job.
#ifndef LORAD_ENGINE_TRAIN_SCHEDULE_H_
#define LORAD_ENGINE_TRAIN_SCHEDULE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace lorad {

// The formulas of transformers' get_scheduler (src/transformers/optimization.py), with s optimiser
// steps done, w of warm-up and n in all; while s < w all but constant give rate * s / w:
//   constant              rate, from the first step on
//   constant_with_warmup  rate
//   linear                rate * max(0, (n - s) / max(1, n - w))
//   cosine                rate * max(0, (1 + cos(pi * (s - w) / max(1, n - w))) / 2)
class LearningRateSchedule {
 public:
  // `type` as in TrainingSpec::lr_scheduler_type. warmup_steps > 0 wins over warmup_ratio, which
  // means ceil(ratio * num_steps) steps. kInvalidArgument: unknown type, ratio outside [0, 1],
  // negative steps, or a warm-up with "constant", which has none.
  static absl::StatusOr<LearningRateSchedule> Create(const std::string& type, double learning_rate,
                                                     int64_t warmup_steps, double warmup_ratio,
                                                     int64_t num_steps);
  // Of the optimiser step that follows `steps_done` ones: with a warm-up the first rate is 0.
  double Rate(int64_t steps_done) const;
  int64_t warmup_steps() const { return warmup_steps_; }

 private:
  enum class Type : uint8_t { kConstant, kConstantWithWarmup, kLinear, kCosine };
  LearningRateSchedule(Type type, double rate, int64_t warmup_steps, int64_t num_steps)
      : type_(type), rate_(rate), warmup_steps_(warmup_steps), num_steps_(num_steps) {}

  Type type_;
  double rate_;
  int64_t warmup_steps_;
  int64_t num_steps_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_SCHEDULE_H_
