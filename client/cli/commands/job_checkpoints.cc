#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/job_text.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "client/jobs.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunJobCheckpoints(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto checkpoints,
                   JobClient(session.connection()).ListCheckpoints(arguments.Positional(0)));
  Table table({"STEP", "SIZE", "ADAPTER SHA256", "KEPT", "CREATED"});
  for (const v1::Checkpoint& checkpoint : checkpoints) {
    if (session.json()) session.PrintJson(checkpoint);
    table.Row({absl::StrCat(checkpoint.step()), FormatBytes(checkpoint.size_bytes()),
               checkpoint.adapter_sha256().substr(0, 12), checkpoint.stored() ? "yes" : "no",
               TimeText(checkpoint.create_time())});
  }
  if (!session.json()) session.out() << table.Text();
  return 0;
}

}  // namespace

Command JobCheckpointsCommand() {
  return {.path = "job checkpoints",
          .summary = "Lists a job's checkpoints; a restart continues from the newest",
          .positionals = {{"JOB", "such as job-3"}},
          .examples = {{"loractl job checkpoints job-3", ""}},
          .run = RunJobCheckpoints};
}

}  // namespace lorad::client::cli
