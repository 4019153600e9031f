// What the server is, and how it is doing.
#ifndef LORAD_CLIENT_ADMIN_H_
#define LORAD_CLIENT_ADMIN_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/connection.h"
#include "lorad/v1/admin_service.pb.h"

namespace lorad::client {

// Thread-safe. Errors are the server's (client/status.h has their details).
class AdminClient {
 public:
  explicit AdminClient(std::shared_ptr<Connection> connection)
      : connection_(std::move(connection)) {}

  absl::StatusOr<v1::ServerInfo> GetServerInfo();
  // `on_sample` is called on the caller's thread, once now and once per interval (0.1 s to 1 h);
  // false ends the stream with OK.
  absl::Status StreamStats(absl::Duration interval,
                           const std::function<bool(const v1::ServerStats&)>& on_sample);

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace lorad::client

#endif  // LORAD_CLIENT_ADMIN_H_
