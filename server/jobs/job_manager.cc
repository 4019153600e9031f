#include "server/jobs/job_manager.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "server/base/errors.h"
#include "server/base/log.h"
#include "server/base/proto_time.h"

namespace lorad::server {
namespace {

absl::Status InUse(absl::string_view type, absl::string_view name, absl::string_view job_id) {
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat(type, " ", name, " is needed by the unfinished job ", job_id,
                                     "; cancel it or wait until it has ended")),
                    "RESOURCE_IN_USE", {{type, name}, {"job", job_id}});
}

}  // namespace

JobManager::JobManager(Store* store, AdapterRegistry* adapters, DatasetRegistry* datasets,
                       Engine* engine, JobOptions options)
    : store_(store),
      adapters_(adapters),
      datasets_(datasets),
      engine_(engine),
      options_(std::move(options)) {}

JobManager::~JobManager() { Stop(); }

void JobManager::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void JobManager::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    if (running_.run != nullptr) running_.run->RequestStop(/*discard=*/false);
  }
  if (thread_.joinable()) thread_.join();
}

void JobManager::Report(v1::JobState from, v1::JobState to) const {
  if (options_.observer != nullptr) options_.observer->OnJobState(from, to);
}

std::optional<v1::Job> JobManager::Live(int64_t number) const {
  absl::MutexLock lock(&mu_);
  if (running_.record != nullptr) {
    v1::Job job = running_.record->Snapshot();
    if (JobNumber(job.job_id()) == number) return job;
  }
  for (size_t i = 0; i < queue_.size(); ++i) {
    v1::Job job = queue_[i]->Snapshot();
    if (JobNumber(job.job_id()) != number) continue;
    job.set_queue_position(static_cast<int32_t>(i) + 1);
    return job;
  }
  return std::nullopt;
}

absl::StatusOr<v1::Job> JobManager::Get(const std::string& job_id) const {
  if (std::optional<v1::Job> job = Live(JobNumber(job_id))) return *std::move(job);
  return ReadJob(*store_, job_id);
}

absl::StatusOr<std::vector<v1::Job>> JobManager::List(const std::vector<v1::JobState>& states,
                                                      int limit, int64_t& position) const {
  ASSIGN_OR_RETURN(std::vector<v1::Job> jobs, ReadJobs(*store_, states, limit, position));
  for (v1::Job& job : jobs) {
    if (job.state() != v1::JOB_STATE_QUEUED) continue;
    const std::optional<v1::Job> live = Live(JobNumber(job.job_id()));
    if (live.has_value()) job.set_queue_position(live->queue_position());
  }
  return jobs;
}

absl::StatusOr<v1::Job> JobManager::Cancel(const std::string& job_id) {
  const int64_t number = JobNumber(job_id);
  std::shared_ptr<JobRecord> queued;
  Running running;
  {
    absl::MutexLock lock(&mu_);
    const auto it = std::find_if(queue_.begin(), queue_.end(), [&](const auto& record) {
      return JobNumber(record->Snapshot().job_id()) == number;
    });
    if (it != queue_.end()) {
      queued = *it;
      queue_.erase(it);
    } else if (running_.record != nullptr &&
               JobNumber(running_.record->Snapshot().job_id()) == number) {
      running = running_;
    }
  }
  if (queued != nullptr) {
    const absl::Status status = queued->Apply([](v1::Job& job, JobEvents& events) {
      job.set_cancel_requested(true);
      ChangeState(job, events, v1::JOB_STATE_CANCELLED);
    });
    if (!status.ok()) {  // it stays what the store says it is
      absl::MutexLock lock(&mu_);
      queue_.push_back(queued);
      return status;
    }
    Finished(queued->Snapshot());
    Report(v1::JOB_STATE_QUEUED, v1::JOB_STATE_CANCELLED);
  } else if (running.record != nullptr) {
    RETURN_IF_ERROR(running.record->Apply([](v1::Job& job, JobEvents&) {
      if (!IsFinal(job.state())) job.set_cancel_requested(true);
    }));
    running.run->RequestStop(/*discard=*/true);
  }
  return Get(job_id);
}

absl::StatusOr<std::vector<v1::Checkpoint>> JobManager::ListCheckpoints(const std::string& job_id,
                                                                        int limit,
                                                                        int64_t& position) const {
  ASSIGN_OR_RETURN(const v1::Job job, Get(job_id));
  ASSIGN_OR_RETURN(std::vector<v1::Checkpoint> checkpoints,
                   ReadCheckpoints(*store_, job_id, limit, position));
  for (v1::Checkpoint& checkpoint : checkpoints) {
    checkpoint.set_stored(!IsFinal(job.state()) &&
                          PathExists(JoinPath(options_.state_dir, checkpoint.path())));
  }
  return checkpoints;
}

std::vector<std::shared_ptr<JobRecord>> JobManager::Unfinished() const {
  absl::MutexLock lock(&mu_);
  std::vector<std::shared_ptr<JobRecord>> records(queue_.begin(), queue_.end());
  if (running_.record != nullptr) records.push_back(running_.record);
  return records;
}

absl::Status JobManager::CheckDatasetUnused(const v1::Dataset& dataset) const {
  for (const std::shared_ptr<JobRecord>& record : Unfinished()) {
    const v1::Job job = record->Snapshot();
    if (job.train_sha256() == dataset.sha256() || job.eval_sha256() == dataset.sha256()) {
      return InUse("dataset", dataset.name(), job.job_id());
    }
  }
  return absl::OkStatus();
}

absl::Status JobManager::CheckAdapterUnused(const std::string& ref) const {
  for (const std::shared_ptr<JobRecord>& record : Unfinished()) {
    const v1::Job job = record->Snapshot();
    if (job.spec().training().warm_start() == ref) return InUse("adapter", ref, job.job_id());
  }
  return absl::OkStatus();
}

std::string JobManager::RunningJob() const {
  absl::MutexLock lock(&mu_);
  return running_.record == nullptr ? std::string() : running_.record->Snapshot().job_id();
}

int JobManager::QueuedJobs() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(queue_.size());
}

void JobManager::Finished(const v1::Job& job) {
  if (options_.observer != nullptr) options_.observer->OnJobFinished(job);
  // What a job leaves is in the store: its adapter, or nothing.
  if (const absl::Status status = RemoveDirectory(JobDir(job)); !status.ok()) {
    Log(LogLevel::kWarning, absl::StrCat("the directory of ", job.job_id(),
                                         " stays until the next start: ", status.ToString()));
  }
  Log(LogLevel::kInfo, absl::StrCat(job.job_id(), " ended: ", v1::JobState_Name(job.state()), " ",
                                    job.result().adapter(), job.error().status().message()));
}

std::string JobManager::JobDir(const v1::Job& job) const {
  return JoinPath(options_.jobs_dir, job.job_id());
}

}  // namespace lorad::server
