#include "client/adapters.h"
#include "client/cli/commands.h"
#include "client/cli/session.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunAdapterExport(Session& session, const Arguments& arguments) {
  const std::string dir = arguments.Positional(1);
  ASSIGN_OR_RETURN(const v1::Adapter adapter,
                   AdapterClient(session.connection()).Export(arguments.Positional(0), dir));
  if (session.json()) {
    session.PrintJson(adapter);
  } else {
    session.out() << adapter.ref() << " is written to " << dir << "\n";
  }
  return 0;
}

}  // namespace

Command AdapterExportCommand() {
  return {.path = "adapter export",
          .summary = "Writes an adapter as a PEFT directory",
          .positionals = {{"ADAPTER", "name, name@version or alias"},
                          {"DIR", "a new or empty directory"}},
          .examples = {{"loractl adapter export tickets ./tickets",
                        "PeftModel.from_pretrained(base, \"./tickets\") loads it"}},
          .run = RunAdapterExport};
}

}  // namespace lorad::client::cli
