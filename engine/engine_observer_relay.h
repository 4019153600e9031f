// From the observers of the engine's parts to the server's. Private to engine.cc.
#ifndef LORAD_ENGINE_ENGINE_OBSERVER_RELAY_H_
#define LORAD_ENGINE_ENGINE_OBSERVER_RELAY_H_

#include "absl/status/status.h"
#include "engine/engine_observer.h"
#include "engine/lora/store.h"
#include "engine/sched/observer.h"

namespace lorad {

// Hands the measurements of the scheduler and the store on to the server's observer, if any.
class ObserverRelay final : public SchedulerObserver, public AdapterStoreObserver {
 public:
  explicit ObserverRelay(EngineObserver* observer) : observer_(observer) {}

  void OnFirstToken(bool adapter, double seconds) override {
    if (observer_ != nullptr) observer_->OnFirstToken(adapter, seconds);
  }
  void OnInterToken(bool adapter, double seconds) override {
    if (observer_ != nullptr) observer_->OnInterToken(adapter, seconds);
  }
  void OnRequestFinished(const RequestTimes& times) override {
    if (observer_ == nullptr) return;
    observer_->OnRequestFinished({.adapter = times.adapter,
                                  .queue_seconds = times.queue_seconds,
                                  .time_to_first_token_seconds = times.time_to_first_token_seconds,
                                  .total_seconds = times.total_seconds,
                                  .prompt_tokens = times.prompt_tokens,
                                  .cached_tokens = times.cached_tokens,
                                  .generated_tokens = times.generated_tokens,
                                  .finish_reason = times.finish_reason});
  }
  void OnServingStep(bool prefill, int32_t rows, double seconds) override {
    if (observer_ != nullptr) observer_->OnServingStep(prefill, rows, seconds);
  }
  void OnTrainingSlice(SlicePhase phase, double seconds) override {
    if (observer_ != nullptr) observer_->OnTrainingSlice(phase, seconds);
  }
  void OnItlTargetMissed() override {
    if (observer_ != nullptr) observer_->OnItlTargetMissed();
  }
  void OnAdapterLoad(const char* source, const absl::Status& status, double seconds) override {
    if (observer_ != nullptr) observer_->OnAdapterLoad(source, status, seconds);
  }
  void OnAdapterEviction() override {
    if (observer_ != nullptr) observer_->OnAdapterEviction();
  }
  void OnAdapterPrefetch() override {
    if (observer_ != nullptr) observer_->OnAdapterPrefetch();
  }

 private:
  EngineObserver* const observer_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_ENGINE_OBSERVER_RELAY_H_
