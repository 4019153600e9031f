// What the engine tells of its work as it does it.
#ifndef LORAD_ENGINE_ENGINE_OBSERVER_H_
#define LORAD_ENGINE_ENGINE_OBSERVER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "engine/infer/request.h"
#include "engine/train/spec.h"

namespace lorad {

struct TokenTimes {  // of one finished request
  bool adapter = false;
  double queue_seconds = 0, time_to_first_token_seconds = 0, total_seconds = 0;
  int32_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  FinishReason finish_reason = FinishReason::kStop;
};

// Receives measurements on the engine thread: must return at once. Implemented by server/metrics.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnFirstToken(bool adapter, double seconds) = 0;
  virtual void OnInterToken(bool adapter, double seconds) = 0;
  virtual void OnRequestFinished(const TokenTimes& times) = 0;
  virtual void OnServingStep(bool prefill, int32_t rows, double seconds) = 0;
  // One slice of training, with its time on the device.
  virtual void OnTrainingSlice(SlicePhase, double /*seconds*/) {}
  // Running requests waited longer for a token than itl_target_ms.
  virtual void OnItlTargetMissed() {}
  // source: "disk", "host" or "training"; the device copy is included.
  virtual void OnAdapterLoad(const char* source, const absl::Status& status, double seconds) = 0;
  virtual void OnAdapterEviction() = 0;
  // A load was begun before the request that wants it could run.
  virtual void OnAdapterPrefetch() = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_ENGINE_OBSERVER_H_
