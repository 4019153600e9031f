#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/dataset_text.h"
#include "client/cli/format.h"
#include "client/cli/job_text.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "client/datasets.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunDatasetLs(Session& session, const Arguments&) {
  ASSIGN_OR_RETURN(const auto datasets, DatasetClient(session.connection()).List());
  Table table({"NAME", "KIND", "SAMPLES", "TOKENS", "TARGETS", "SIZE", "SHA256", "CREATED"});
  for (const v1::Dataset& dataset : datasets) {
    if (session.json()) session.PrintJson(dataset);
    const v1::DatasetReport& report = dataset.report();
    table.Row({dataset.name(), DatasetKindName(report.kind()), absl::StrCat(report.samples()),
               absl::StrCat(report.tokens()), absl::StrCat(report.target_tokens()),
               FormatBytes(dataset.size_bytes()), dataset.sha256().substr(0, 12),
               TimeText(dataset.create_time())});
  }
  if (!session.json()) session.out() << table.Text();
  return 0;
}

}  // namespace

Command DatasetLsCommand() {
  return {.path = "dataset ls",
          .summary = "Lists the datasets",
          .examples = {{"loractl dataset ls", ""}},
          .run = RunDatasetLs};
}

}  // namespace lorad::client::cli
