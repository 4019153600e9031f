#include "client/cli/job_follow.h"

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/cli/errors.h"
#include "client/cli/job_events.h"
#include "client/cli/json.h"
#include "client/cli/progress.h"
#include "client/jobs.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

// Prints one job's events and remembers how it ended.
class Follower {
 public:
  Follower(Session& session, const std::string& job_id, int64_t after_seq)
      : session_(session),
        job_id_(job_id),
        seq_(after_seq),
        line_(session.out(), session.terminal(), session.width()) {}

  absl::Status OnEvent(const v1::JobEvent& event) {
    seq_ = event.seq();
    if (event.has_state_change()) state_ = event.state_change().to();
    if (event.has_adapter_published()) adapter_ = event.adapter_published().adapter();
    if (session_.json()) {
      session_.out() << JsonLine(JobEventJson(job_id_, event)) << std::endl;
    } else if (event.has_step()) {
      OnStep(event);
    } else {
      if (event.has_state_change() && IsFinal(state_)) line_.Finish();
      const std::string text = JobEventLine(job_id_, event);
      if (!text.empty()) line_.Print(text);
    }
    // A reader that has gone (a closed pipe) needs no more; the job goes on.
    return session_.out().good() ? absl::OkStatus()
                                 : absl::CancelledError("nobody reads the output");
  }

  void OnDisconnect(const absl::Status& status) {
    line_.Finish();
    session_.err() << "connection lost (" << status.message() << "); trying again\n";
  }

  void Detach() {
    line_.Finish();
    session_.err() << "detached; " << job_id_ << " goes on\n"
                   << "hint: follow it with \"loractl job watch " << job_id_
                   << " --after_seq=" << seq_ << "\", stop it with \"loractl job cancel " << job_id_
                   << "\"\n";
  }

  int Finish() {
    line_.Finish();
    if (state_ != v1::JOB_STATE_SUCCEEDED) return kFailed;
    if (!session_.json() && !adapter_.empty()) {
      session_.out() << "try it: loractl generate --adapter=" << adapter_ << " --prompt=...\n"
                     << "put it behind an alias: loractl adapter alias ALIAS " << adapter_ << "\n";
    }
    return kOk;
  }

  v1::JobState state() const { return state_; }
  void set_state(v1::JobState state) { state_ = state; }

 private:
  void OnStep(const v1::JobEvent& event) {
    const v1::JobStep& step = event.step();
    eta_.Observe(step.step(), absl::FromUnixSeconds(event.time().seconds()) +
                                  absl::Nanoseconds(event.time().nanos()));
    const std::string details = StepDetails(step, eta_.SecondsLeft(step.steps()));
    const std::string count = absl::StrCat(step.step(), "/", step.steps(), "  ", details);
    if (session_.terminal()) {
      const double share =
          step.steps() > 0 ? static_cast<double>(step.step()) / static_cast<double>(step.steps())
                           : 0;
      line_.Update(share, count);
    } else {
      line_.Print(absl::StrCat("step ", count));
    }
  }

  Session& session_;
  const std::string job_id_;
  int64_t seq_;
  ProgressLine line_;
  EtaEstimator eta_;
  v1::JobState state_ = v1::JOB_STATE_UNSPECIFIED;
  std::string adapter_;
};

}  // namespace

absl::StatusOr<int> FollowJob(Session& session, const std::string& job_id, int64_t after_seq) {
  JobClient jobs(session.connection());
  Follower follower(session, job_id, after_seq);
  const absl::Status status =
      jobs.Watch({.job_id = job_id,
                  .after_seq = after_seq,
                  .on_event = [&](const v1::JobEvent& event) { return follower.OnEvent(event); },
                  .on_disconnect = [&](const absl::Status& lost) { follower.OnDisconnect(lost); }});
  if (!session.out().good()) return kFailed;  // a closed pipe wants no words
  if (!status.ok()) {
    // Whatever broke here, the job is not stopped by it.
    const bool known = !absl::IsNotFound(status);
    if (known) follower.Detach();
    if (session.interrupted()) return kInterrupted;
    return status;
  }
  if (follower.state() == v1::JOB_STATE_UNSPECIFIED) {
    // All of its events were before `after_seq`.
    ASSIGN_OR_RETURN(const v1::Job job, jobs.Get(job_id));
    follower.set_state(job.state());
  }
  return follower.Finish();
}

}  // namespace lorad::client::cli
