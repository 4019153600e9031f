// loractl, apart from the process around it.
#ifndef LORAD_CLIENT_CLI_RUN_H_
#define LORAD_CLIENT_CLI_RUN_H_

#include <string>
#include <vector>

#include "client/cli/session.h"

namespace lorad::client::cli {

// Runs one command line (without the program's name) and returns the exit code.
int RunCommandLine(const std::vector<std::string>& words, const Streams& streams);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_RUN_H_
