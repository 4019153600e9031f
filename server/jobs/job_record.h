// One job as it is stored: its state and its numbered events, changed together.
#ifndef LORAD_SERVER_JOBS_JOB_RECORD_H_
#define LORAD_SERVER_JOBS_JOB_RECORD_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "lorad/v1/job_service.pb.h"
#include "server/store/store.h"

namespace lorad::server {

// "job-17" and its number. 0: not a job id.
std::string JobId(int64_t number);
int64_t JobNumber(absl::string_view job_id);
// Of the store; the number has a fixed width, so that key order is the order of submission.
std::string JobKey(int64_t number);

bool IsFinal(v1::JobState state);

using JobEvents = std::vector<v1::JobEvent>;

// Moves the job to `to` and adds the event that says so. Sets start_time with the first RUNNING and
// end_time with a final state.
void ChangeState(v1::Job& job, JobEvents& events, v1::JobState to,
                 v1::QueuedReason reason = v1::QUEUED_REASON_UNSPECIFIED);
// The same to FAILED, because of `status`.
void ChangeToFailed(v1::Job& job, JobEvents& events, v1::JobFault fault,
                    const absl::Status& status);

// Thread-safe: changes are made one at a time, and are seen when they are durable. Snapshot waits
// for a transaction that is under way. `mutate` must not call the record.
class JobRecord {
 public:
  // `job` as stored, or a new one that the first Apply stores.
  JobRecord(Store* store, v1::Job job) : store_(store), job_(std::move(job)) {}

  v1::Job Snapshot() const ABSL_LOCKS_EXCLUDED(mu_);

  using Mutation = std::function<void(v1::Job& job, JobEvents& events)>;
  using Commit = std::function<absl::Status(std::vector<Op> ops)>;
  // Applies `mutate` to a copy, numbers and dates the events it added, and stores all of it, with
  // `extra`, in one transaction; `commit`, if given, carries the operations out instead of the
  // store. On an error nothing has changed.
  absl::Status Apply(const Mutation& mutate, std::vector<Op> extra = {},
                     const Commit& commit = nullptr) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  Store* const store_;
  mutable absl::Mutex mu_;  // held across a transaction
  v1::Job job_ ABSL_GUARDED_BY(mu_);
};

// Reads of what is stored. Thread-safe; each call blocks on the store.
absl::StatusOr<v1::Job> ReadJob(Store& store, absl::string_view job_id);
// Newest first; `position` is the number of the last job seen, 0 for the beginning, and moves on; 0
// when there are no more.
absl::StatusOr<std::vector<v1::Job>> ReadJobs(Store& store, const std::vector<v1::JobState>& states,
                                              int limit, int64_t& position);
absl::StatusOr<JobEvents> ReadEvents(Store& store, absl::string_view job_id, int64_t after_seq,
                                     int limit);
// Newest first; `position` is the step of the last one seen, as above.
absl::StatusOr<std::vector<v1::Checkpoint>> ReadCheckpoints(Store& store, absl::string_view job_id,
                                                            int limit, int64_t& position);

}  // namespace lorad::server

#endif  // LORAD_SERVER_JOBS_JOB_RECORD_H_
