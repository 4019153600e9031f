#include "client/adapters.h"
#include "client/cli/adapter_text.h"
#include "client/cli/commands.h"
#include "client/cli/session.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunAdapterImport(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(
      const auto reply,
      AdapterClient(session.connection()).Import(arguments.Positional(0), arguments.Positional(1)));
  if (session.json()) {
    session.PrintJson(reply);
    return 0;
  }
  session.out() << AdapterText(reply.adapter());
  if (!reply.created()) session.out() << "(the same content was there already)\n";
  return 0;
}

}  // namespace

Command AdapterImportCommand() {
  return {.path = "adapter import",
          .summary = "Takes a PEFT directory as a new version of an adapter",
          .positionals = {{"NAME", "of the adapter"},
                          {"DIR", "with adapter_config.json and adapter_model.safetensors"}},
          .examples = {{"loractl adapter import tickets ./outputs/checkpoint-300", ""}},
          .run = RunAdapterImport};
}

}  // namespace lorad::client::cli
