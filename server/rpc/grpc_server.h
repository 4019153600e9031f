// The gRPC listener: services, health, reflection, channelz, limits.
#ifndef LORAD_SERVER_RPC_GRPC_SERVER_H_
#define LORAD_SERVER_RPC_GRPC_SERVER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "server/rpc/rpc_observer.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Thread-safe.
class GrpcServer {
 public:
  // Listens on host:port; port 0 picks a free one. Health says NOT_SERVING until SetServing(true).
  // `services` and `observer` outlive it. kFailedPrecondition: the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const std::string& listen,
                                                           const Services* services,
                                                           RpcObserver* observer);
  ~GrpcServer();

  // Full names: "lorad.v1.JobService", and "/lorad.v1.JobService/Submit".
  static const std::vector<std::string>& ServiceNames();
  static std::vector<std::string> MethodNames();

  // host:port, with the port that was picked.
  const std::string& address() const { return address_; }
  int port() const { return port_; }
  // For "" and every service; Watch streams see it at once.
  void SetServing(bool serving);
  // No new calls; those in flight are cancelled at `deadline`. Blocks until all have ended.
  void Shutdown(absl::Time deadline);

 private:
  GrpcServer() = default;

  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  int port_ = 0;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_GRPC_SERVER_H_
