#include "client/cli/commands.h"
#include "client/cli/job_text.h"
#include "client/cli/session.h"
#include "client/jobs.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunJobGet(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const v1::Job job, JobClient(session.connection()).Get(arguments.Positional(0)));
  if (session.json()) {
    session.PrintJson(job);
  } else {
    session.out() << JobText(job);
  }
  return 0;
}

}  // namespace

Command JobGetCommand() {
  return {.path = "job get",
          .summary = "Shows one job: state, progress, result and every hyperparameter",
          .positionals = {{"JOB", "such as job-3"}},
          .examples = {{"loractl job get job-3", ""}},
          .run = RunJobGet};
}

}  // namespace lorad::client::cli
