// One run of one job: takes the engine's reports, stores them, and says how it ended.
#ifndef LORAD_SERVER_JOBS_JOB_RUN_H_
#define LORAD_SERVER_JOBS_JOB_RUN_H_

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/plan/learning_curve.h"
#include "server/adapters/adapter_registry.h"
#include "server/jobs/job_observer.h"
#include "server/jobs/job_record.h"

namespace lorad::server {

struct JobStopped {
  int64_t checkpoint_step = -1;  // -1: none was written
};
// How a run ended: finished, stopped on request, or failed.
using JobOutcome = std::variant<TrainingResult, JobStopped, absl::Status>;

v1::TrainingPlan ToProto(const TrainingPlan& plan);

// Thread-safe. The engine thread calls the sink; each report is durable when the call returns. The
// job manager's thread waits.
class JobRun : public TrainingSink {
 public:
  // `observer` may be null. `state_dir`: what paths in events are relative to.
  JobRun(std::shared_ptr<JobRecord> record, std::string state_dir, AdapterRegistry* adapters,
         JobObserver* observer);

  // The evaluations of earlier runs of the job. Before the engine gets the sink.
  void ContinueCurve(std::vector<CurvePoint> evals) ABSL_LOCKS_EXCLUDED(mu_);

  // Asks for an early end; `discard`: no checkpoint is wanted. Wakes AwaitStopRequest.
  void RequestStop(bool discard) ABSL_LOCKS_EXCLUDED(mu_);
  // Blocks until a stop is asked for (true) or the run has ended (false). Events that cannot be
  // stored ask for a stop, too.
  bool AwaitStopRequest() ABSL_LOCKS_EXCLUDED(mu_);
  bool discard() const ABSL_LOCKS_EXCLUDED(mu_);
  // The adapter that OnPublication was last told of; empty: none.
  std::string published() const ABSL_LOCKS_EXCLUDED(mu_);
  // Blocks until the run has ended. An event that could not be stored makes it an error.
  JobOutcome AwaitEnd() ABSL_LOCKS_EXCLUDED(mu_);

  void OnStart(const TrainingPlan& plan, int64_t resumed_from_step) override;
  void OnStep(const StepReport& report) override;
  void OnEval(const EvalReport& report) override;
  void OnCheckpoint(const CheckpointReport& report) override;
  // The adapter serves under the job's name from here on, until the next; see
  // AdapterRegistry::Provide.
  void OnPublication(const PublicationReport& report) override;
  void OnWarning(const std::string& message) override;
  void OnFinish(const TrainingResult& result) override { End(result); }
  void OnStopped(int64_t checkpoint_step) override { End(JobStopped{checkpoint_step}); }
  void OnError(const absl::Status& status) override { End(status); }

 private:
  void Store(const JobRecord::Mutation& mutate, std::vector<Op> extra = {})
      ABSL_LOCKS_EXCLUDED(mu_);
  void End(JobOutcome outcome) ABSL_LOCKS_EXCLUDED(mu_);
  // Takes checkpoints' adapters out of service that later ones have replaced. On the manager's
  // thread: the registry may block.
  void WithdrawReplaced() ABSL_LOCKS_EXCLUDED(mu_);
  // Stores a forecast by the newest evaluation, once for each. On the manager's thread: a fit takes
  // longer than the engine's may.
  void ForecastIfDue() ABSL_LOCKS_EXCLUDED(mu_);

  const std::shared_ptr<JobRecord> record_;
  const std::string state_dir_;
  AdapterRegistry* const adapters_;
  JobObserver* const observer_;
  // Only on the engine thread.
  absl::Time start_;
  int64_t first_step_ = 0;  // steps that this run found done

  mutable absl::Mutex mu_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  bool discard_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  std::string published_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> replaced_ ABSL_GUARDED_BY(mu_);
  std::vector<CurvePoint> evals_ ABSL_GUARDED_BY(mu_);
  int64_t steps_ ABSL_GUARDED_BY(mu_) = 0;  // in all
  bool forecast_due_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status store_error_ ABSL_GUARDED_BY(mu_);
  JobOutcome outcome_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_JOBS_JOB_RUN_H_
