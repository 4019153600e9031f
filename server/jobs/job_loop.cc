// The manager's thread: runs the queue, one job after the other; and what a restart finds.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/sha256.h"
#include "server/base/errors.h"
#include "server/base/log.h"
#include "server/base/proto_time.h"
#include "server/jobs/job_forecast.h"
#include "server/jobs/job_manager.h"
#include "server/store/keys.h"

namespace lorad::server {
namespace {

constexpr absl::Duration kStoreRetry = absl::Seconds(1);

v1::JobFault FaultOf(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status)
             ? v1::JOB_FAULT_USER
             : v1::JOB_FAULT_SYSTEM;
}

// The blob's id is what the job was accepted with: other bytes would train another adapter.
absl::Status CheckContent(const std::string& path, const std::string& sha256) {
  if (path.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string actual, Sha256HexOfFile(path));
  if (actual == sha256) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the content of ", path, " has sha256 ", actual,
                                          ", it was stored as ", sha256,
                                          "; upload the dataset again under a new name"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobManager>> JobManager::Create(Store* store,
                                                               AdapterRegistry* adapters,
                                                               DatasetRegistry* datasets,
                                                               Engine* engine, JobOptions options) {
  auto manager =
      absl::WrapUnique(new JobManager(store, adapters, datasets, engine, std::move(options)));
  RETURN_IF_ERROR(manager->Recover());
  return manager;
}

absl::Status JobManager::Recover() {
  ASSIGN_OR_RETURN(const std::optional<KeyValue> last, store_->Get(keys::kLastJob));
  if (last.has_value()) {
    absl::MutexLock lock(&submit_mu_);
    if (!absl::SimpleAtoi(last->value, &last_number_)) {
      return absl::DataLossError(absl::StrCat("the record ", keys::kLastJob, " cannot be read"));
    }
  }
  ASSIGN_OR_RETURN(const std::vector<KeyValue> rows, store_->Range({.prefix = keys::kJobs}));
  for (const KeyValue& kv : rows) {  // in the order of submission, which is that of the queue
    v1::Job job;
    if (!job.ParseFromString(kv.value)) {
      return absl::DataLossError(absl::StrCat("the record ", kv.key, " cannot be read"));
    }
    RETURN_IF_ERROR(RecoverOne(std::move(job)));
  }
  return RemoveStaleDirectories();
}

absl::Status JobManager::RecoverOne(v1::Job job) {
  const v1::JobState found = job.state();
  auto record = std::make_shared<JobRecord>(store_, std::move(job));
  if (found == v1::JOB_STATE_RUNNING) {
    const v1::Job running = record->Snapshot();
    const bool give_up = running.attempts() >= options_.max_attempts;
    RETURN_IF_ERROR(record->Apply([&](v1::Job& stored, JobEvents& events) {
      if (stored.cancel_requested()) {
        ChangeState(stored, events, v1::JOB_STATE_CANCELLED);
      } else if (give_up) {
        ChangeToFailed(stored, events, v1::JOB_FAULT_SYSTEM,
                       absl::AbortedError(absl::StrCat("the server ended during each of ",
                                                       stored.attempts(), " attempts")));
      } else {
        ChangeState(stored, events, v1::JOB_STATE_QUEUED, v1::QUEUED_REASON_REQUEUED);
      }
    }));
    if (options_.observer != nullptr) options_.observer->OnJobRecovered(!give_up);
  }
  const v1::JobState state = record->Snapshot().state();
  Report(v1::JOB_STATE_UNSPECIFIED, state);
  if (IsFinal(state)) return absl::OkStatus();
  absl::MutexLock lock(&mu_);
  queue_.push_back(std::move(record));
  return absl::OkStatus();
}

absl::Status JobManager::RemoveStaleDirectories() {
  std::set<std::string> keep;
  for (const std::shared_ptr<JobRecord>& record : Unfinished()) {
    keep.insert(record->Snapshot().job_id());
  }
  std::error_code error;
  std::vector<std::string> stale;
  for (const auto& entry : std::filesystem::directory_iterator(options_.jobs_dir, error)) {
    if (!keep.contains(entry.path().filename().string())) stale.push_back(entry.path().string());
  }
  for (const std::string& dir : stale) RETURN_IF_ERROR(RemoveDirectory(dir));
  return absl::OkStatus();
}

void JobManager::Loop() {
  while (true) {
    Running running;
    {
      absl::MutexLock lock(&mu_);
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return stopping_ || !queue_.empty();
      };
      mu_.Await(absl::Condition(&ready));
      if (stopping_) return;
      running.record = queue_.front();
      running.run = std::make_shared<JobRun>(running.record, options_.state_dir, adapters_,
                                             options_.observer);
      queue_.pop_front();
      running_ = running;
    }
    RunOne(running);
    absl::MutexLock lock(&mu_);
    running_ = {};
  }
}

void JobManager::RunOne(const Running& running) {
  const v1::Job before = running.record->Snapshot();
  if (options_.observer != nullptr) {
    options_.observer->OnJobQueued(
        absl::ToDoubleSeconds(absl::Now() - FromProto(before.create_time())));
  }
  ApplyPersistently(*running.record, [](v1::Job& job, JobEvents& events) {
    job.set_attempts(job.attempts() + 1);
    ChangeState(job, events, v1::JOB_STATE_RUNNING);
  });
  Report(v1::JOB_STATE_QUEUED, v1::JOB_STATE_RUNNING);
  Conclude(*running.record, *running.run, Train(running));
}

JobOutcome JobManager::Train(const Running& running) {
  const v1::Job job = running.record->Snapshot();
  if (job.state() != v1::JOB_STATE_RUNNING) return JobStopped{};  // the manager stops
  const absl::StatusOr<TrainingSpec> spec = EngineSpec(job);
  if (!spec.ok()) return spec.status();
  for (const auto& [path, sha256] : {std::pair(spec->train_path, job.train_sha256()),
                                     std::pair(spec->eval_path, job.eval_sha256())}) {
    if (absl::Status status = CheckContent(path, sha256); !status.ok()) return status;
  }
  if (absl::Status status = CreateDirectories(JobDir(job)); !status.ok()) return status;
  absl::StatusOr<std::vector<CurvePoint>> evals = StoredEvals(*store_, job.job_id());
  if (!evals.ok()) return evals.status();
  running.run->ContinueCurve(*std::move(evals));
  const absl::StatusOr<TrainingId> id = engine_->StartTraining(*spec, running.run);
  if (!id.ok()) return id.status();
  if (running.run->AwaitStopRequest()) {
    engine_->StopTraining(*id, /*checkpoint=*/!running.run->discard());
  }
  return running.run->AwaitEnd();
}

void JobManager::Conclude(JobRecord& record, const JobRun& run, const JobOutcome& outcome) {
  absl::Status failure;
  if (const auto* result = std::get_if<TrainingResult>(&outcome))
    failure = Publish(record, *result);
  if (const auto* status = std::get_if<absl::Status>(&outcome)) failure = *status;
  const bool stopped = std::holds_alternative<JobStopped>(outcome);
  if (!failure.ok()) {
    ApplyPersistently(record, [&](v1::Job& job, JobEvents& events) {
      ChangeToFailed(job, events, FaultOf(failure), failure);
    });
  } else if (stopped && run.discard()) {
    ApplyPersistently(record, [](v1::Job& job, JobEvents& events) {
      ChangeState(job, events, v1::JOB_STATE_CANCELLED);
    });
  } else if (stopped) {
    ApplyPersistently(record, [](v1::Job& job, JobEvents& events) {
      ChangeState(job, events, v1::JOB_STATE_QUEUED, v1::QUEUED_REASON_REQUEUED);
    });
  }
  const v1::Job job = record.Snapshot();
  // What was served from memory alone has no files that would bring it back; of the adapter that
  // was committed, nothing is provided any more.
  if (!run.published().empty()) adapters_->Withdraw(job.spec().name(), run.published());
  Report(v1::JOB_STATE_RUNNING, job.state());
  if (IsFinal(job.state())) Finished(job);
}

absl::Status JobManager::Publish(JobRecord& record, const TrainingResult& result) {
  const v1::Job job = record.Snapshot();
  ASSIGN_OR_RETURN(StagedAdapter staged,
                   adapters_->Stage(job.spec().name(), result.output_dir, job.job_id()));
  if (staged.record.sha256() != result.adapter_id) {
    return absl::InternalError(absl::StrCat("the engine made adapter ", result.adapter_id,
                                            ", its files hold ", staged.record.sha256()));
  }
  // One transaction: the adapter has its name exactly when the job has succeeded.
  return record.Apply(
      [&](v1::Job& stored, JobEvents& events) {
        v1::JobResult& to = *stored.mutable_result();
        to.set_adapter(staged.record.ref());
        to.set_sha256(result.adapter_id);
        to.set_steps(result.steps);
        to.set_final_loss(result.final_loss);
        if (!std::isnan(result.best_eval_loss)) to.set_best_eval_loss(result.best_eval_loss);
        to.set_best_step(result.best_step);
        to.set_stopped_early(result.stopped_early);
        v1::AdapterPublished* published = events.emplace_back().mutable_adapter_published();
        published->set_adapter(to.adapter());
        published->set_sha256(to.sha256());
        ChangeState(stored, events, v1::JOB_STATE_SUCCEEDED);
      },
      {}, [&](std::vector<Op> ops) { return adapters_->Commit(staged, std::move(ops)); });
}

void JobManager::ApplyPersistently(JobRecord& record, const JobRecord::Mutation& mutate) {
  while (true) {
    const absl::Status status = record.Apply(mutate);
    if (status.ok()) return;
    Log(LogLevel::kError, absl::StrCat("the state of ", record.Snapshot().job_id(),
                                       " cannot be stored: ", status.ToString()));
    absl::MutexLock lock(&mu_);
    // A restart finds the job as the store has it, and runs it again.
    if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), kStoreRetry)) return;
  }
}

}  // namespace lorad::server
