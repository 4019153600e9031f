// What the gRPC server reports to whoever measures it.
#ifndef LORAD_SERVER_RPC_RPC_OBSERVER_H_
#define LORAD_SERVER_RPC_RPC_OBSERVER_H_

#include "absl/strings/string_view.h"
#include "grpcpp/support/status_code_enum.h"

namespace lorad::server {

// Thread-safe. Calls return at once. `method` is "/package.Service/Method" of a known method.
class RpcObserver {
 public:
  virtual ~RpcObserver() = default;
  virtual void OnCallStarted(absl::string_view method) = 0;
  virtual void OnCallEnded(absl::string_view method, grpc::StatusCode code, double seconds) = 0;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_RPC_OBSERVER_H_
