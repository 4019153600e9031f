// Follows a job to its end.
#ifndef LORAD_CLIENT_CLI_JOB_FOLLOW_H_
#define LORAD_CLIENT_CLI_JOB_FOLLOW_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/session.h"

namespace lorad::client::cli {

// Prints the events after `after_seq` as they come: JSON lines, a progress bar on a terminal, or
// plain lines. Returns 0 when the job succeeded, 1 when it failed or was cancelled, 130 after
// Ctrl-C, which leaves the job running.
absl::StatusOr<int> FollowJob(Session& session, const std::string& job_id, int64_t after_seq);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_JOB_FOLLOW_H_
