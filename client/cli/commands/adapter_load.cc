#include "client/adapters.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/session.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunAdapterLoad(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const v1::Adapter adapter,
                   AdapterClient(session.connection()).Load(arguments.Positional(0)));
  if (session.json()) {
    session.PrintJson(adapter);
  } else {
    session.out() << adapter.ref() << " is on the device (" << FormatBytes(adapter.device_bytes())
                  << ")\n";
  }
  return 0;
}

}  // namespace

Command AdapterLoadCommand() {
  return {.path = "adapter load",
          .summary = "Brings an adapter onto the device now instead of at its first use",
          .positionals = {{"ADAPTER", "name, name@version or alias"}},
          .examples = {{"loractl adapter load tickets", ""}},
          .run = RunAdapterLoad};
}

}  // namespace lorad::client::cli
