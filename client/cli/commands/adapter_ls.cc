#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/adapters.h"
#include "client/cli/adapter_text.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/job_text.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunAdapterLs(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto adapters,
                   AdapterClient(session.connection()).List(arguments.Text("name")));
  Table table({"ADAPTER", "ALIASES", "R", "PARAMETERS", "SIZE", "TIER", "JOB", "CREATED"});
  for (const v1::Adapter& adapter : adapters) {
    if (session.json()) session.PrintJson(adapter);
    table.Row({adapter.ref(), absl::StrJoin(adapter.aliases(), ","), absl::StrCat(adapter.r()),
               FormatCount(adapter.parameters()), FormatBytes(adapter.size_bytes()),
               TierName(adapter.tier()), adapter.job_id(), TimeText(adapter.create_time())});
  }
  if (!session.json()) session.out() << table.Text();
  return 0;
}

}  // namespace

Command AdapterLsCommand() {
  return {.path = "adapter ls",
          .summary = "Lists the adapters, newest version first",
          .options = {{"name", OptionType::kText, "NAME", "only versions of this adapter", "all"}},
          .examples = {{"loractl adapter ls", ""}, {"loractl adapter ls --name=tickets", ""}},
          .run = RunAdapterLs};
}

}  // namespace lorad::client::cli
