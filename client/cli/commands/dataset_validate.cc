#include <filesystem>

#include "client/cli/commands.h"
#include "client/cli/dataset_text.h"
#include "client/cli/session.h"
#include "client/cli/upload.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<v1::DatasetReport> Validated(Session& session, const Arguments& arguments) {
  const std::string what = arguments.Positional(0);
  std::error_code error;
  if (!std::filesystem::is_regular_file(what, error)) {
    return DatasetClient(session.connection()).Validate(what, arguments.Int32("max_seq_length"));
  }
  ASSIGN_OR_RETURN(
      const auto reply,
      UploadWithProgress(session, {.name = "validate", .path = what, .validate_only = true}));
  return reply.dataset().report();
}

absl::StatusOr<int> RunDatasetValidate(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const v1::DatasetReport report, Validated(session, arguments));
  if (session.json()) {
    session.PrintJson(report);
  } else {
    session.out() << DatasetReportText(report);
  }
  return 0;
}

}  // namespace

Command DatasetValidateCommand() {
  return {.path = "dataset validate",
          .summary = "Checks a stored dataset, or a local file without storing it",
          .positionals = {{"NAME_OR_FILE", "name of a dataset, or a JSONL file"}},
          .options = {{"max_seq_length", OptionType::kInt, "N",
                       "of a stored dataset: tokens after which a sample is cut",
                       "the model's context"}},
          .examples = {{"loractl dataset validate tickets --max_seq_length=512",
                        "how many samples would be cut"},
                       {"loractl dataset validate tickets_train.jsonl", ""}},
          .run = RunDatasetValidate};
}

}  // namespace lorad::client::cli
