#include "client/cli/commands.h"
#include "client/cli/job_follow.h"
#include "client/cli/session.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunJobWatch(Session& session, const Arguments& arguments) {
  return FollowJob(session, arguments.Positional(0), arguments.Int("after_seq"));
}

}  // namespace

Command JobWatchCommand() {
  return {.path = "job watch",
          .summary = "Follows a job to its end; exit code 0 only if it succeeds",
          .positionals = {{"JOB", "such as job-3"}},
          .options = {{"after_seq", OptionType::kInt, "N", "skip the events up to this one", "0"}},
          .examples = {{"loractl job watch job-3", "Ctrl-C leaves the job running"},
                       {"loractl job watch job-3 --output=json | jq .loss", ""}},
          .run = RunJobWatch};
}

}  // namespace lorad::client::cli
