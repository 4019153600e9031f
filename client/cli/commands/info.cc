#include "absl/strings/str_cat.h"
#include "client/admin.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/job_text.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunInfo(Session& session, const Arguments&) {
  ASSIGN_OR_RETURN(const v1::ServerInfo info, AdminClient(session.connection()).GetServerInfo());
  if (session.json()) {
    session.PrintJson(info);
    return 0;
  }
  const v1::ModelInfo& model = info.model();
  session.out() << KeyValues({
      {"lorad", info.version()},
      {"state", info.draining() ? "shutting down" : "serving"},
      {"started", TimeText(info.start_time())},
      {"grpc", info.grpc_address()},
      {"http", info.http_address()},
      {"model", absl::StrCat(model.name(), " (", model.architecture(), ")")},
      {"parameters", FormatCount(model.parameters())},
      {"quantisation", model.quant()},
      {"weights", FormatBytes(model.weight_bytes())},
      {"context", absl::StrCat(model.context_tokens(), " tokens")},
      {"vocabulary", absl::StrCat(model.vocab_size())},
      {"tokenizer", model.has_tokenizer() ? "yes" : "no: ids only"},
      {"device", model.device()},
      {"digest", model.digest()},
  });
  return 0;
}

}  // namespace

Command InfoCommand() {
  return {.path = "info",
          .summary = "Shows the server, its model and its limits",
          .examples = {{"loractl info", ""},
                       {"loractl info --output=json | jq .model.context_tokens", ""}},
          .run = RunInfo};
}

}  // namespace lorad::client::cli
