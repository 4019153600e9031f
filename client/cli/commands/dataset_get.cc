#include "client/cli/commands.h"
#include "client/cli/dataset_text.h"
#include "client/cli/session.h"
#include "client/datasets.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunDatasetGet(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const v1::Dataset dataset,
                   DatasetClient(session.connection()).Get(arguments.Positional(0)));
  if (session.json()) {
    session.PrintJson(dataset);
  } else {
    session.out() << DatasetText(dataset);
  }
  return 0;
}

}  // namespace

Command DatasetGetCommand() {
  return {.path = "dataset get",
          .summary = "Shows one dataset",
          .positionals = {{"NAME", "of the dataset"}},
          .examples = {{"loractl dataset get tickets", ""}},
          .run = RunDatasetGet};
}

}  // namespace lorad::client::cli
