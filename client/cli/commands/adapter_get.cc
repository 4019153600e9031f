#include "client/adapters.h"
#include "client/cli/adapter_text.h"
#include "client/cli/commands.h"
#include "client/cli/session.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunAdapterGet(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const v1::Adapter adapter,
                   AdapterClient(session.connection()).Get(arguments.Positional(0)));
  if (session.json()) {
    session.PrintJson(adapter);
  } else {
    session.out() << AdapterText(adapter);
  }
  return 0;
}

}  // namespace

Command AdapterGetCommand() {
  return {.path = "adapter get",
          .summary = "Shows one adapter",
          .positionals = {{"ADAPTER", "name, name@version or alias"}},
          .examples = {{"loractl adapter get tickets", "its newest version"},
                       {"loractl adapter get assistant --output=json | jq -r .ref",
                        "the version behind an alias"}},
          .run = RunAdapterGet};
}

}  // namespace lorad::client::cli
