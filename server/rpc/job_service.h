// lorad.v1.JobService: checks, calls the job manager, translates.
#ifndef LORAD_SERVER_RPC_JOB_SERVICE_H_
#define LORAD_SERVER_RPC_JOB_SERVICE_H_

#include "lorad/v1/job_service.grpc.pb.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Thread-safe.
class JobServiceImpl : public v1::JobService::CallbackService {
 public:
  explicit JobServiceImpl(const Services* services) : services_(services) {}

  grpc::ServerUnaryReactor* Submit(grpc::CallbackServerContext* context,
                                   const v1::SubmitJobRequest* request,
                                   v1::SubmitJobResponse* response) override;
  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const v1::GetJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const v1::ListJobsRequest* request,
                                 v1::ListJobsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* Watch(
      grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const v1::CancelJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext* context,
                                            const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override;

 private:
  const Services* const services_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_JOB_SERVICE_H_
