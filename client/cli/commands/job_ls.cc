#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/format.h"
#include "client/cli/job_events.h"
#include "client/cli/job_text.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "client/jobs.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<std::vector<v1::JobState>> StatesOf(const Arguments& arguments) {
  std::vector<v1::JobState> states;
  for (const std::string& name : arguments.List("state")) {
    v1::JobState state;
    if (!v1::JobState_Parse(absl::StrCat("JOB_STATE_", absl::AsciiStrToUpper(name)), &state)) {
      return UsageError(absl::StrCat("--state=", name,
                                     ": not one of validating, queued, running, succeeded, failed, "
                                     "cancelled"));
    }
    states.push_back(state);
  }
  return states;
}

absl::StatusOr<int> RunJobLs(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto states, StatesOf(arguments));
  ASSIGN_OR_RETURN(const auto jobs, JobClient(session.connection()).List(states));
  Table table({"JOB", "STATE", "NAME", "STEP", "LOSS", "EVAL LOSS", "ADAPTER", "CREATED"});
  for (const v1::Job& job : jobs) {
    if (session.json()) session.PrintJson(job);
    table.Row({job.job_id(), StateName(job.state()), job.spec().name(), JobProgress(job),
               job.has_last_step() ? FormatSignificant(job.last_step().loss()) : "",
               job.has_last_eval() ? FormatSignificant(job.last_eval().loss()) : "",
               job.result().adapter(), TimeText(job.create_time())});
  }
  if (!session.json()) session.out() << table.Text();
  return 0;
}

}  // namespace

Command JobLsCommand() {
  return {
      .path = "job ls",
      .summary = "Lists the jobs, newest first",
      .options = {{"state", OptionType::kList, "STATE,...", "only jobs in these states", "all"}},
      .examples = {{"loractl job ls", ""}, {"loractl job ls --state=queued,running", ""}},
      .run = RunJobLs};
}

}  // namespace lorad::client::cli
