#include "server/jobs/job_record.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "server/base/errors.h"
#include "server/base/proto_time.h"
#include "server/store/keys.h"

namespace lorad::server {
namespace {

template <typename Message>
absl::StatusOr<Message> Parse(const KeyValue& kv) {
  Message message;
  if (!message.ParseFromString(kv.value)) {
    return absl::DataLossError(absl::StrCat("the record ", kv.key, " cannot be read"));
  }
  return message;
}

}  // namespace

std::string JobId(int64_t number) { return absl::StrCat("job-", number); }

int64_t JobNumber(absl::string_view job_id) {
  int64_t number = 0;
  if (!absl::ConsumePrefix(&job_id, "job-") || !absl::SimpleAtoi(job_id, &number)) return 0;
  // "job-07" and "job-+7" are not names of job-7.
  return number > 0 && absl::StrCat(number) == job_id ? number : 0;
}

std::string JobKey(int64_t number) {
  return absl::StrCat(keys::kJobs, absl::Dec(number, absl::kZeroPad12));
}

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

void ChangeState(v1::Job& job, JobEvents& events, v1::JobState to, v1::QueuedReason reason) {
  v1::JobStateChange* change = events.emplace_back().mutable_state_change();
  change->set_from(job.state());
  change->set_to(to);
  change->set_queued_reason(reason);
  change->set_attempt(job.attempts());
  job.set_state(to);
  job.set_queued_reason(reason);
  const google::protobuf::Timestamp now = ToProto(absl::Now());
  if (to == v1::JOB_STATE_RUNNING && !job.has_start_time()) *job.mutable_start_time() = now;
  if (IsFinal(to)) *job.mutable_end_time() = now;
  if (to != v1::JOB_STATE_RUNNING) job.set_eta_seconds(0);
}

void ChangeToFailed(v1::Job& job, JobEvents& events, v1::JobFault fault,
                    const absl::Status& status) {
  ChangeState(job, events, v1::JOB_STATE_FAILED);
  job.mutable_error()->set_fault(fault);
  *job.mutable_error()->mutable_status() = ToProto(status);
  *events.back().mutable_state_change()->mutable_error() = job.error();
}

v1::Job JobRecord::Snapshot() const {
  absl::MutexLock lock(&mu_);
  return job_;
}

absl::Status JobRecord::Apply(const Mutation& mutate, std::vector<Op> extra, const Commit& commit) {
  // Across the transaction: who sees an event through the store must find its state here.
  absl::MutexLock lock(&mu_);
  v1::Job job = job_;
  JobEvents events;
  mutate(job, events);
  const google::protobuf::Timestamp now = ToProto(absl::Now());
  std::vector<Op> ops = std::move(extra);
  for (v1::JobEvent& event : events) {
    job.set_last_seq(job.last_seq() + 1);
    event.set_seq(job.last_seq());
    *event.mutable_time() = now;
    ops.push_back(Op::Put(keys::Event(job.job_id(), event.seq()), event.SerializeAsString()));
  }
  ops.push_back(Op::Put(JobKey(JobNumber(job.job_id())), job.SerializeAsString()));
  RETURN_IF_ERROR(commit != nullptr ? commit(std::move(ops)) : store_->Txn({}, ops).status());
  job_ = std::move(job);
  return absl::OkStatus();
}

absl::StatusOr<v1::Job> ReadJob(Store& store, absl::string_view job_id) {
  const absl::Status not_found = NotFound("job", job_id, "JobService.List shows what there is");
  const int64_t number = JobNumber(job_id);
  if (number == 0) return not_found;
  ASSIGN_OR_RETURN(const std::optional<KeyValue> kv, store.Get(JobKey(number)));
  if (!kv.has_value()) return not_found;
  return Parse<v1::Job>(*kv);
}

absl::StatusOr<std::vector<v1::Job>> ReadJobs(Store& store, const std::vector<v1::JobState>& states,
                                              int limit, int64_t& position) {
  std::vector<v1::Job> page;
  std::string start_after = position > 0 ? JobKey(position) : std::string();
  position = 0;
  while (true) {
    ASSIGN_OR_RETURN(const std::vector<KeyValue> rows, store.Range({.prefix = keys::kJobs,
                                                                    .start_after = start_after,
                                                                    .descending = true,
                                                                    .limit = limit + 1}));
    for (const KeyValue& kv : rows) {
      ASSIGN_OR_RETURN(v1::Job job, Parse<v1::Job>(kv));
      const bool wanted =
          states.empty() || std::find(states.begin(), states.end(), job.state()) != states.end();
      if (!wanted) continue;
      if (static_cast<int>(page.size()) == limit) {
        position = JobNumber(page.back().job_id());
        return page;
      }
      page.push_back(std::move(job));
    }
    if (static_cast<int>(rows.size()) <= limit) return page;
    start_after = rows.back().key;
  }
}

absl::StatusOr<JobEvents> ReadEvents(Store& store, absl::string_view job_id, int64_t after_seq,
                                     int limit) {
  ASSIGN_OR_RETURN(const std::vector<KeyValue> rows,
                   store.Range({.prefix = keys::EventPrefix(job_id),
                                .start_after = keys::Event(job_id, after_seq),
                                .limit = limit}));
  JobEvents events;
  for (const KeyValue& kv : rows) {
    ASSIGN_OR_RETURN(events.emplace_back(), Parse<v1::JobEvent>(kv));
  }
  return events;
}

absl::StatusOr<std::vector<v1::Checkpoint>> ReadCheckpoints(Store& store, absl::string_view job_id,
                                                            int limit, int64_t& position) {
  ASSIGN_OR_RETURN(
      const std::vector<KeyValue> rows,
      store.Range({.prefix = keys::CheckpointPrefix(job_id),
                   .start_after = position > 0 ? keys::Checkpoint(job_id, position) : "",
                   .descending = true,
                   .limit = limit + 1}));
  std::vector<v1::Checkpoint> page;
  for (const KeyValue& kv : rows) {
    if (static_cast<int>(page.size()) == limit) break;
    ASSIGN_OR_RETURN(page.emplace_back(), Parse<v1::Checkpoint>(kv));
  }
  position = static_cast<int>(rows.size()) > limit ? page.back().step() : 0;
  return page;
}

}  // namespace lorad::server
