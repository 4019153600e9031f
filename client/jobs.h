// Fine-tuning jobs: submit, follow, cancel.
#ifndef LORAD_CLIENT_JOBS_H_
#define LORAD_CLIENT_JOBS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/connection.h"
#include "lorad/v1/job_service.pb.h"

namespace lorad::client {

// True for SUCCEEDED, FAILED and CANCELLED.
bool IsFinal(v1::JobState state);

struct WatchJobOptions {
  std::string job_id;
  int64_t after_seq = 0;  // 0: from the first event
  // How long the server may be away before Watch gives up; a restart takes a few seconds.
  absl::Duration reconnect_for = absl::Minutes(5);
  // Called on the caller's thread, in order, each event once. An error ends Watch with it.
  std::function<absl::Status(const v1::JobEvent&)> on_event = {};
  // Told once each time the connection is lost; may be empty.
  std::function<void(const absl::Status&)> on_disconnect = {};
};

// Thread-safe. Errors are the server's (client/status.h has their details) unless said otherwise.
class JobClient {
 public:
  explicit JobClient(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}

  // An empty request_id is replaced by a new one, so that a repeated call submits one job.
  absl::StatusOr<v1::Job> Submit(v1::SubmitJobRequest request);
  absl::StatusOr<v1::Job> Get(const std::string& job_id);
  // Newest first; only those in one of `states`, unless it is empty.
  absl::StatusOr<std::vector<v1::Job>> List(const std::vector<v1::JobState>& states);
  // Returns OK after the event that brought a final state; reconnects from the last event it has.
  // DataLoss: the server skipped an event.
  absl::Status Watch(const WatchJobOptions& options);
  absl::StatusOr<v1::Job> Cancel(const std::string& job_id);
  // Newest first.
  absl::StatusOr<std::vector<v1::Checkpoint>> ListCheckpoints(const std::string& job_id);

 private:
  struct WatchState {
    int64_t seq = 0;
    bool final = false;
    absl::Status handler = {};  // what on_event returned, or the gap that was found
  };
  absl::Status WatchOnce(const WatchJobOptions& options, WatchState& state);

  std::shared_ptr<Connection> connection_;
};

}  // namespace lorad::client

#endif  // LORAD_CLIENT_JOBS_H_
