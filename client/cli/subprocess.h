// Another program, run to its end.
#ifndef LORAD_CLIENT_CLI_SUBPROCESS_H_
#define LORAD_CLIENT_CLI_SUBPROCESS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lorad::client::cli {

struct ProgramResult {
  std::string out = {};
  std::string err = {};
  std::string failure = {};  // "exit code 1", "signal 9"; empty when it exited with 0
};

// Runs `words[0]`, found in PATH, with the rest as its arguments and `input` as its standard input;
// no shell reads any of it. Waits for the end. kNotFound when there is no such program. What it
// reads and writes is held in memory. Thread-safe.
absl::StatusOr<ProgramResult> RunProgram(std::vector<std::string> words, std::string_view input);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_SUBPROCESS_H_
