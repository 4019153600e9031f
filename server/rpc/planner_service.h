// lorad.v1.PlannerService: proto/planner, with this server's model and memory as the defaults.
#ifndef LORAD_SERVER_RPC_PLANNER_SERVICE_H_
#define LORAD_SERVER_RPC_PLANNER_SERVICE_H_

#include "lorad/v1/planner_service.grpc.pb.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Thread-safe.
class PlannerServiceImpl : public v1::PlannerService::CallbackService {
 public:
  explicit PlannerServiceImpl(const Services* services) : services_(services) {}

  grpc::ServerUnaryReactor* PlanMemory(grpc::CallbackServerContext* context,
                                       const v1::PlanMemoryRequest* request,
                                       v1::PlanMemoryResponse* response) override;
  grpc::ServerUnaryReactor* PlanCheckpointing(grpc::CallbackServerContext* context,
                                              const v1::PlanCheckpointingRequest* request,
                                              v1::PlanCheckpointingResponse* response) override;
  grpc::ServerUnaryReactor* CountFlops(grpc::CallbackServerContext* context,
                                       const v1::CountFlopsRequest* request,
                                       v1::CountFlopsResponse* response) override;
  grpc::ServerUnaryReactor* FitScalingLaw(grpc::CallbackServerContext* context,
                                          const v1::FitScalingLawRequest* request,
                                          v1::FitScalingLawResponse* response) override;

 private:
  const Services* const services_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_PLANNER_SERVICE_H_
