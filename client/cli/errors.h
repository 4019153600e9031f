// Exit codes, and how an error is told: what, which item, what to do next.
#ifndef LORAD_CLIENT_CLI_ERRORS_H_
#define LORAD_CLIENT_CLI_ERRORS_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace lorad::client::cli {

// Stable: scripts rely on them. client/README.md has the table.
enum ExitCode : int {
  kOk = 0,
  kFailed = 1,  // the job failed or was cancelled, or any error not below
  kUsage = 2,   // the command line is wrong; nothing was sent
  kNotFound = 3,
  kUnavailable = 4,   // no connection, or the server is loading or shutting down: try again
  kRefused = 5,       // the server refused what it was given: INVALID_ARGUMENT, UNIMPLEMENTED
  kConflict = 6,      // state: FAILED_PRECONDITION, ALREADY_EXISTS, ABORTED
  kExhausted = 7,     // RESOURCE_EXHAUSTED: queue, memory or quota
  kTimeout = 8,       // DEADLINE_EXCEEDED
  kDenied = 9,        // UNAUTHENTICATED, PERMISSION_DENIED
  kInterrupted = 130  // Ctrl-C
};

// An InvalidArgument that was found before anything was sent: exit code 2.
absl::Status UsageError(std::string_view message);
bool IsUsageError(const absl::Status& status);

ExitCode ExitCodeOf(const absl::Status& status);

// "error: ..." and, a line each, field violations and hints; ends with a newline. `server` is the
// address in use.
std::string DescribeError(const absl::Status& status, std::string_view server);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_ERRORS_H_
