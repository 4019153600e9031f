#include <optional>

#include "client/adapters.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/session.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

absl::StatusOr<int> RunAdapterAlias(Session& session, const Arguments& arguments) {
  const std::string name = arguments.Positional(0);
  const std::string adapter = arguments.Positional(1);
  if (arguments.Bool("remove") != adapter.empty()) {
    return UsageError("give either the ADAPTER to point at, or --remove");
  }
  std::optional<std::string> expected;
  if (arguments.Has("expect")) expected = arguments.Text("expect");
  ASSIGN_OR_RETURN(const v1::Alias alias,
                   AdapterClient(session.connection()).SetAlias(name, adapter, expected));
  if (session.json()) {
    session.PrintJson(alias);
  } else if (alias.adapter().empty()) {
    session.out() << name << " is removed\n";
  } else {
    session.out() << name << " -> " << alias.adapter() << "\n";
  }
  return 0;
}

}  // namespace

Command AdapterAliasCommand() {
  return {
      .path = "adapter alias",
      .summary = "Points an alias at an adapter, or removes it; requests in flight end on theirs",
      .positionals = {{"ALIAS", "what applications ask for"},
                      {"ADAPTER", "name, name@version or alias", false}},
      .options = {{"expect", OptionType::kText, "NAME@VERSION",
                   "move it only from there; empty: only if the alias does not exist", ""},
                  {"remove", OptionType::kBool, "", "remove the alias", "false"}},
      .examples = {{"loractl adapter alias assistant tickets", "to its newest version"},
                   {"loractl adapter alias assistant tickets@3f2a9c01b7de "
                    "--expect=tickets@77b0f3d2a511",
                    "fails with exit code 6 if somebody else moved it"},
                   {"loractl adapter alias assistant --remove", ""}},
      .run = RunAdapterAlias};
}

}  // namespace lorad::client::cli
