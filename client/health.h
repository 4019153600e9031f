// grpc.health.v1: is the server taking work?
#ifndef LORAD_CLIENT_HEALTH_H_
#define LORAD_CLIENT_HEALTH_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"

namespace lorad::client {

// Thread-safe.
class HealthClient {
 public:
  explicit HealthClient(std::shared_ptr<Connection> connection)
      : connection_(std::move(connection)) {}

  // "SERVING", "NOT_SERVING", "UNKNOWN" or "SERVICE_UNKNOWN" of a service by its full name; empty:
  // of the server as a whole. NotFound: there is no such service.
  absl::StatusOr<std::string> Check(const std::string& service);
  // `on_status` is called on the caller's thread with the status now and at each change; false ends
  // the stream with OK.
  absl::Status Watch(const std::string& service,
                     const std::function<bool(const std::string&)>& on_status);

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace lorad::client

#endif  // LORAD_CLIENT_HEALTH_H_
