// lorad.v1.AdminService: what the server is, and how it is doing.
#ifndef LORAD_SERVER_RPC_ADMIN_SERVICE_H_
#define LORAD_SERVER_RPC_ADMIN_SERVICE_H_

#include "lorad/v1/admin_service.grpc.pb.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Thread-safe.
class AdminServiceImpl : public v1::AdminService::CallbackService {
 public:
  explicit AdminServiceImpl(const Services* services) : services_(services) {}

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest* request,
                                          v1::ServerInfo* response) override;
  grpc::ServerWriteReactor<v1::ServerStats>* StreamStats(
      grpc::CallbackServerContext* context, const v1::StreamStatsRequest* request) override;

 private:
  const Services* const services_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_ADMIN_SERVICE_H_
