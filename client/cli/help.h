// The texts of --help.
#ifndef LORAD_CLIENT_CLI_HELP_H_
#define LORAD_CLIENT_CLI_HELP_H_

#include <string>
#include <vector>

#include "client/cli/command.h"
#include "client/cli/option.h"

namespace lorad::client::cli {

// Usage, arguments, options and examples of one command.
std::string CommandHelp(const Command& command, const std::vector<Option>& global_options);

// The commands that begin with the words of `group` (all when empty), one line each.
std::string Overview(const std::vector<std::string>& group, const std::vector<Command>& commands,
                     const std::vector<Option>& global_options);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_HELP_H_
