#include "client/cli/commands.h"
#include "client/cli/json.h"
#include "client/cli/session.h"
#include "client/datasets.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunDatasetRm(Session& session, const Arguments& arguments) {
  const std::string name = arguments.Positional(0);
  RETURN_IF_ERROR(DatasetClient(session.connection()).Delete(name));
  if (session.json()) {
    session.PrintJson(v1::DeleteDatasetResponse());
  } else {
    session.out() << "deleted dataset " << name << "\n";
  }
  return 0;
}

}  // namespace

Command DatasetRmCommand() {
  return {.path = "dataset rm",
          .summary = "Deletes a dataset that no unfinished job uses",
          .positionals = {{"NAME", "of the dataset"}},
          .examples = {{"loractl dataset rm tickets", ""}},
          .run = RunDatasetRm};
}

}  // namespace lorad::client::cli
