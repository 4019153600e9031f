#include "client/cli/commands.h"
#include "client/cli/job_events.h"
#include "client/cli/session.h"
#include "client/jobs.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunJobCancel(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const v1::Job job,
                   JobClient(session.connection()).Cancel(arguments.Positional(0)));
  if (session.json()) {
    session.PrintJson(job);
  } else if (IsFinal(job.state())) {
    session.out() << job.job_id() << " has ended: " << StateName(job.state()) << "\n";
  } else {
    session.out() << job.job_id() << " stops after the running step\n";
  }
  return 0;
}

}  // namespace

Command JobCancelCommand() {
  return {.path = "job cancel",
          .summary = "Stops a job after its running step",
          .positionals = {{"JOB", "such as job-3"}},
          .examples = {{"loractl job cancel job-3", ""}},
          .run = RunJobCancel};
}

}  // namespace lorad::client::cli
