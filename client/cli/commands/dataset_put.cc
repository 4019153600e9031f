#include "client/cli/commands.h"
#include "client/cli/dataset_text.h"
#include "client/cli/session.h"
#include "client/cli/upload.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunDatasetPut(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto reply,
                   UploadWithProgress(session, {.name = arguments.Positional(0),
                                                .path = arguments.Positional(1),
                                                .request_id = arguments.Text("request_id"),
                                                .overwrite = arguments.Bool("overwrite")}));
  if (session.json()) {
    session.PrintJson(reply);
    return 0;
  }
  session.out() << DatasetText(reply.dataset());
  if (!reply.created()) session.out() << "(the same content was there already)\n";
  return 0;
}

}  // namespace

Command DatasetPutCommand() {
  return {.path = "dataset put",
          .summary = "Uploads a JSONL file as a dataset, checked line by line",
          .positionals = {{"NAME", "what the dataset shall be called"},
                          {"FILE", "JSONL with prompt+completion, text, or input_ids+labels"}},
          .options = {{"overwrite", OptionType::kBool, "",
                       "let an existing name point at the new content", "false"},
                      {"request_id", OptionType::kText, "ID",
                       "that of an upload that broke: it is continued", "a new one"}},
          .examples = {{"loractl dataset put tickets tickets_train.jsonl", ""},
                       {"loractl dataset put tickets tickets_train_v2.jsonl --overwrite",
                        "jobs that were submitted keep the content they had"}},
          .run = RunDatasetPut};
}

}  // namespace lorad::client::cli
