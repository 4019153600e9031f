#include "client/adapters.h"
#include "client/cli/commands.h"
#include "client/cli/session.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunAdapterRm(Session& session, const Arguments& arguments) {
  const std::string adapter = arguments.Positional(0);
  RETURN_IF_ERROR(AdapterClient(session.connection()).Delete(adapter));
  if (session.json()) {
    session.PrintJson(v1::DeleteAdapterResponse());
  } else {
    session.out() << "deleted adapter " << adapter << "\n";
  }
  return 0;
}

}  // namespace

Command AdapterRmCommand() {
  return {.path = "adapter rm",
          .summary = "Deletes one version of an adapter that no alias points at",
          .positionals = {{"NAME@VERSION", "exactly one version"}},
          .examples = {{"loractl adapter rm tickets@3f2a9c01b7de", ""}},
          .run = RunAdapterRm};
}

}  // namespace lorad::client::cli
