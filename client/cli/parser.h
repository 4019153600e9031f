// Reads loractl's command line.
#ifndef LORAD_CLIENT_CLI_PARSER_H_
#define LORAD_CLIENT_CLI_PARSER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/arguments.h"
#include "client/cli/command.h"
#include "client/cli/option.h"

namespace lorad::client::cli {

struct Invocation {
  const Command* command = nullptr;     // not owned; nullptr: only help or version is asked for
  Arguments arguments = {};             // global options are in it too
  bool help = false;                    // --help, -h, or "help" before a command
  bool version = false;                 // --version
  std::vector<std::string> group = {};  // words of a group without its command ("job"), with `help`
};

// Options stand before or after the command, as --name=value or --name value; "--" ends them. An
// option's name always means the same kind of value, so that one before the command can be read.
// Errors are usage errors (client/cli/errors.h) that name the word and the nearest known one.
absl::StatusOr<Invocation> Parse(const std::vector<std::string>& words,
                                 const std::vector<Command>& commands,
                                 const std::vector<Option>& global_options);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_PARSER_H_
