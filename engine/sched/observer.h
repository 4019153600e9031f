#ifndef LORAD_ENGINE_SCHED_OBSERVER_H_
#define LORAD_ENGINE_SCHED_OBSERVER_H_

#include <cstdint>

#include "engine/infer/request.h"
#include "engine/train/spec.h"

namespace lorad {

struct RequestTimes {  // of one finished request
  bool adapter = false;
  double queue_seconds = 0;
  double time_to_first_token_seconds = 0;
  double total_seconds = 0;
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;  // of the prompt: not run, because they were run before
  int32_t generated_tokens = 0;
  FinishReason finish_reason = FinishReason::kStop;
};

// Measurements of serving. Called on the engine thread; must return at once.
class SchedulerObserver {
 public:
  virtual ~SchedulerObserver() = default;
  virtual void OnFirstToken(bool adapter, double seconds) = 0;
  virtual void OnInterToken(bool adapter, double seconds) = 0;
  virtual void OnRequestFinished(const RequestTimes& times) = 0;
  // One forward pass: prefill rows or decoding rows.
  virtual void OnServingStep(bool prefill, int32_t rows, double seconds) = 0;
  // One slice of training, with its time on the device.
  virtual void OnTrainingSlice(SlicePhase, double /*seconds*/) {}
  // A decoding pass whose tokens came later after those before than the target allows.
  virtual void OnItlTargetMissed() {}
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_OBSERVER_H_
