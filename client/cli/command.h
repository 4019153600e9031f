// One command of loractl: what it takes, what --help says, and what it does.
#ifndef LORAD_CLIENT_CLI_COMMAND_H_
#define LORAD_CLIENT_CLI_COMMAND_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/arguments.h"
#include "client/cli/option.h"

namespace lorad::client::cli {

class Session;  // client/cli/session.h

struct Command {
  std::string path;     // "job submit"
  std::string summary;  // one line, without a full stop
  std::vector<Positional> positionals = {};
  std::vector<Option> options = {};
  std::vector<Example> examples = {};
  // Returns the exit code; an error is reported by main and mapped to one (client/README.md).
  absl::StatusOr<int> (*run)(Session& session, const Arguments& arguments) = nullptr;
};

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_COMMAND_H_
