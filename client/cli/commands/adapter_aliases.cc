#include "absl/strings/str_cat.h"
#include "client/adapters.h"
#include "client/cli/commands.h"
#include "client/cli/job_text.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunAdapterAliases(Session& session, const Arguments&) {
  ASSIGN_OR_RETURN(const auto aliases, AdapterClient(session.connection()).ListAliases());
  Table table({"ALIAS", "ADAPTER", "MOVES", "UPDATED"});
  for (const v1::Alias& alias : aliases) {
    if (session.json()) session.PrintJson(alias);
    table.Row({alias.alias(), alias.adapter(), absl::StrCat(alias.generation()),
               TimeText(alias.update_time())});
  }
  if (!session.json()) session.out() << table.Text();
  return 0;
}

}  // namespace

Command AdapterAliasesCommand() {
  return {.path = "adapter aliases",
          .summary = "Lists the aliases",
          .examples = {{"loractl adapter aliases", ""}},
          .run = RunAdapterAliases};
}

}  // namespace lorad::client::cli
