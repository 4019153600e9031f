// gRPC's status as absl::Status, with the google.rpc details that came along.
#ifndef LORAD_CLIENT_STATUS_H_
#define LORAD_CLIENT_STATUS_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace grpc {
class Status;
}
namespace google::rpc {
class Status;
}

namespace lorad::client {

// All functions here are thread-safe.

struct FieldViolation {
  std::string field;  // path in the request: "spec.training.r"
  std::string description;
};

// What the server said beside code and message; all empty when it said nothing.
struct ErrorDetails {
  std::string reason;  // ErrorInfo: UPPER_SNAKE, stable
  std::map<std::string, std::string> metadata;
  std::vector<FieldViolation> field_violations;
  std::optional<absl::Duration> retry_after;
  std::string resource_type, resource_name;
};

// Same code and message; the details become a payload. OK stays OK.
absl::Status FromGrpc(const grpc::Status& status);
// The same for a status inside a message, such as that of one request of a batch.
absl::Status FromProto(const google::rpc::Status& status);

ErrorDetails DetailsOf(const absl::Status& status);

// The connection broke, or the server is not there or not taking work: the same call may succeed
// later. Includes the codes other than UNAVAILABLE that gRPC itself makes up for a broken stream.
bool IsTransportFailure(const absl::Status& status);

}  // namespace lorad::client

#endif  // LORAD_CLIENT_STATUS_H_
