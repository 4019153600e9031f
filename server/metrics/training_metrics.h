// Jobs and what they report while they train.
#ifndef LORAD_SERVER_METRICS_TRAINING_METRICS_H_
#define LORAD_SERVER_METRICS_TRAINING_METRICS_H_

#include <array>
#include <map>
#include <utility>

#include "engine/engine.h"
#include "lorad/v1/job_service.pb.h"
#include "server/metrics/builder.h"

namespace lorad::server {

// Thread-safe.
class TrainingMetrics {
 public:
  explicit TrainingMetrics(prometheus::Registry& registry);

  void OnJobState(v1::JobState from, v1::JobState to);
  void OnJobFinished(const v1::Job& job);
  void OnJobRecovered(bool resumed) { recovered_[resumed ? 0 : 1]->Increment(); }
  void OnJobQueued(double seconds) { queue_seconds_->Observe(seconds); }
  void OnStep(const StepReport& report);
  void OnSlice(SlicePhase phase, double seconds) {
    slice_seconds_[static_cast<size_t>(phase)]->Observe(seconds);
  }
  void OnItlTargetMissed() { itl_exceeded_->Increment(); }
  void SetShare(double share) { share_->Set(share); }
  void OnEval(const EvalReport& report);
  void OnForecast(const v1::JobForecast& forecast);
  void OnCheckpoint(const CheckpointReport& report);
  void OnPublication(const PublicationReport& report) {
    publication_seconds_->Observe(report.seconds);
  }

 private:
  void MakeJobs(prometheus::Registry& registry);
  void MakeGauges(prometheus::Registry& registry);
  void MakeSlices(prometheus::Registry& registry);
  void SetForecast(double expected, double lower, double upper);

  std::map<v1::JobState, prometheus::Gauge*> jobs_;
  // By result and reason.
  std::map<std::pair<std::string, std::string>, prometheus::Counter*> finished_;
  std::map<std::string, prometheus::Histogram*> duration_;  // by result
  std::array<prometheus::Counter*, 2> recovered_;           // resumed, failed
  prometheus::Histogram* queue_seconds_;

  prometheus::Counter* steps_;
  prometheus::Counter* tokens_;
  prometheus::Counter* target_tokens_;
  prometheus::Counter* nonfinite_steps_;
  prometheus::Counter* seconds_;
  prometheus::Histogram* step_seconds_;
  prometheus::Gauge* loss_;
  prometheus::Gauge* eval_loss_;
  std::array<prometheus::Gauge*, 3> forecast_;  // expected, lower, upper
  prometheus::Gauge* learning_rate_;
  prometheus::Gauge* gradient_norm_;
  prometheus::Gauge* tokens_per_second_;
  prometheus::Gauge* progress_;
  prometheus::Gauge* last_step_;
  prometheus::Counter* evals_;

  std::array<prometheus::Histogram*, kNumSlicePhases> slice_seconds_;
  prometheus::Gauge* share_;
  prometheus::Counter* itl_exceeded_;

  prometheus::Histogram* checkpoint_seconds_;
  prometheus::Gauge* checkpoint_bytes_;
  prometheus::Gauge* last_checkpoint_;
  prometheus::Histogram* publication_seconds_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_METRICS_TRAINING_METRICS_H_
