// Fine-tuning jobs: accepts, queues, runs one at a time, and brings them through restarts.
#ifndef LORAD_SERVER_JOBS_JOB_MANAGER_H_
#define LORAD_SERVER_JOBS_JOB_MANAGER_H_

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine.h"
#include "lorad/v1/job_service.pb.h"
#include "server/adapters/adapter_registry.h"
#include "server/datasets/dataset_registry.h"
#include "server/jobs/job_observer.h"
#include "server/jobs/job_record.h"
#include "server/jobs/job_run.h"
#include "server/store/store.h"

namespace lorad::server {

struct JobOptions {
  std::string state_dir;  // what paths in events are relative to
  std::string jobs_dir;   // one directory per unfinished job
  int max_queued = 64;
  // A job that the process did not survive so often is given up: it may be what ends the process.
  int max_attempts = 20;
  JobObserver* observer = nullptr;  // may be null; outlives the manager
};

// Thread-safe. Calls may block on the store and, in Submit, on the engine's reading of the data.
// Recovery: a job that was running goes to the front of the queue as REQUEUED and is resumed by the
// engine from the last checkpoint in its directory.
class JobManager {
 public:
  // Reads the stored jobs and queues the unfinished ones; Start() runs them.
  static absl::StatusOr<std::unique_ptr<JobManager>> Create(Store* store, AdapterRegistry* adapters,
                                                            DatasetRegistry* datasets,
                                                            Engine* engine, JobOptions options);
  ~JobManager();

  void Start();
  // Ends the running job after its step with a checkpoint and requeues it; refuses new ones with
  // kUnavailable. Blocks until the manager's thread has ended. Call once, or not at all.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);

  absl::StatusOr<v1::Job> Submit(const v1::SubmitJobRequest& request)
      ABSL_LOCKS_EXCLUDED(submit_mu_, mu_);
  absl::StatusOr<v1::Job> Get(const std::string& job_id) const ABSL_LOCKS_EXCLUDED(mu_);
  // As ReadJobs.
  absl::StatusOr<std::vector<v1::Job>> List(const std::vector<v1::JobState>& states, int limit,
                                            int64_t& position) const ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<v1::Job> Cancel(const std::string& job_id) ABSL_LOCKS_EXCLUDED(mu_);
  // As ReadCheckpoints.
  absl::StatusOr<std::vector<v1::Checkpoint>> ListCheckpoints(const std::string& job_id, int limit,
                                                              int64_t& position) const;

  // kFailedPrecondition, with the job, while an unfinished job needs it.
  absl::Status CheckDatasetUnused(const v1::Dataset& dataset) const ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status CheckAdapterUnused(const std::string& ref) const ABSL_LOCKS_EXCLUDED(mu_);

  std::string RunningJob() const ABSL_LOCKS_EXCLUDED(mu_);  // empty: none
  int QueuedJobs() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Running {
    std::shared_ptr<JobRecord> record;
    std::shared_ptr<JobRun> run;
  };

  JobManager(Store* store, AdapterRegistry* adapters, DatasetRegistry* datasets, Engine* engine,
             JobOptions options);

  absl::Status Recover();
  absl::Status RecoverOne(v1::Job job);
  absl::Status RemoveStaleDirectories();

  // Submit's parts.
  absl::StatusOr<v1::Job> Prepare(const v1::JobSpec& spec, absl::StatusOr<TrainingPlan>& plan);
  absl::StatusOr<std::optional<v1::Job>> FindSubmitted(const std::string& request_id,
                                                       const std::string& digest);
  absl::StatusOr<v1::Job> Enqueue(const v1::SubmitJobRequest& request, const std::string& digest,
                                  v1::Job job, const TrainingPlan& plan)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(submit_mu_);
  absl::Status CheckRoom() const ABSL_LOCKS_EXCLUDED(mu_);

  // The engine's spec of a stored job, with the paths of its data.
  absl::StatusOr<TrainingSpec> EngineSpec(const v1::Job& job) const;
  std::string JobDir(const v1::Job& job) const;

  // On the manager's thread.
  void Loop();
  void RunOne(const Running& running);
  JobOutcome Train(const Running& running);
  void Conclude(JobRecord& record, const JobRun& run, const JobOutcome& outcome);
  absl::Status Publish(JobRecord& record, const TrainingResult& result);
  // Applies until the store takes it, or the manager stops: an end must not be forgotten.
  void ApplyPersistently(JobRecord& record, const JobRecord::Mutation& mutate)
      ABSL_LOCKS_EXCLUDED(mu_);
  void Finished(const v1::Job& job);

  // Snapshot of an unfinished job with its queue position, or nullopt.
  std::optional<v1::Job> Live(int64_t number) const ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<std::shared_ptr<JobRecord>> Unfinished() const ABSL_LOCKS_EXCLUDED(mu_);
  void Report(v1::JobState from, v1::JobState to) const;

  Store* const store_;
  AdapterRegistry* const adapters_;
  DatasetRegistry* const datasets_;
  Engine* const engine_;
  const JobOptions options_;

  absl::Mutex submit_mu_;  // gives numbers; held across a transaction; before mu_
  int64_t last_number_ ABSL_GUARDED_BY(submit_mu_) = 0;
  mutable absl::Mutex mu_;
  std::deque<std::shared_ptr<JobRecord>> queue_ ABSL_GUARDED_BY(mu_);
  Running running_ ABSL_GUARDED_BY(mu_);  // empty pointers: none
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_JOBS_JOB_MANAGER_H_
