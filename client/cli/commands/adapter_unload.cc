#include "client/adapters.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/session.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunAdapterUnload(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const v1::Adapter adapter,
                   AdapterClient(session.connection()).Unload(arguments.Positional(0)));
  if (session.json()) {
    session.PrintJson(adapter);
  } else {
    session.out() << adapter.ref() << " is off the device (" << FormatBytes(adapter.device_bytes())
                  << ")\n";
  }
  return 0;
}

}  // namespace

Command AdapterUnloadCommand() {
  return {.path = "adapter unload",
          .summary = "Frees an adapter's device memory; it is loaded again at its next use",
          .positionals = {{"ADAPTER", "name, name@version or alias"}},
          .examples = {{"loractl adapter unload tickets", ""}},
          .run = RunAdapterUnload};
}

}  // namespace lorad::client::cli
