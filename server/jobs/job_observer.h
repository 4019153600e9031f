// What jobs report to whoever measures them.
#ifndef LORAD_SERVER_JOBS_JOB_OBSERVER_H_
#define LORAD_SERVER_JOBS_JOB_OBSERVER_H_

#include "engine/engine.h"
#include "lorad/v1/job_service.pb.h"

namespace lorad::server {

// Thread-safe. Calls return at once.
class JobObserver {
 public:
  virtual ~JobObserver() = default;
  // `from` is UNSPECIFIED for a new job, and for each stored one at start.
  virtual void OnJobState(v1::JobState from, v1::JobState to) = 0;
  // With the final state. `job` has its times and its error.
  virtual void OnJobFinished(const v1::Job& job) = 0;
  // Found running at start: `resumed`, or given up.
  virtual void OnJobRecovered(bool resumed) = 0;
  // A job has left the queue after this long.
  virtual void OnJobQueued(double seconds) = 0;
  virtual void OnStep(const StepReport& report) = 0;
  virtual void OnEval(const EvalReport& report) = 0;
  virtual void OnForecast(const v1::JobForecast& forecast) = 0;
  virtual void OnCheckpoint(const CheckpointReport& report) = 0;
  virtual void OnPublication(const PublicationReport& report) = 0;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_JOBS_JOB_OBSERVER_H_
