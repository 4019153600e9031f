// lorad.v1.DatasetService: checks, calls the registry, translates.
#ifndef LORAD_SERVER_RPC_DATASET_SERVICE_H_
#define LORAD_SERVER_RPC_DATASET_SERVICE_H_

#include "lorad/v1/dataset_service.grpc.pb.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Thread-safe.
class DatasetServiceImpl : public v1::DatasetService::CallbackService {
 public:
  explicit DatasetServiceImpl(const Services* services) : services_(services) {}

  grpc::ServerReadReactor<v1::UploadDatasetRequest>* Upload(
      grpc::CallbackServerContext* context, v1::UploadDatasetResponse* response) override;
  grpc::ServerUnaryReactor* QueryUpload(grpc::CallbackServerContext* context,
                                        const v1::QueryUploadRequest* request,
                                        v1::QueryUploadResponse* response) override;
  grpc::ServerUnaryReactor* Validate(grpc::CallbackServerContext* context,
                                     const v1::ValidateDatasetRequest* request,
                                     v1::ValidateDatasetResponse* response) override;
  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const v1::GetDatasetRequest* request,
                                v1::Dataset* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const v1::ListDatasetsRequest* request,
                                 v1::ListDatasetsResponse* response) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context,
                                   const v1::DeleteDatasetRequest* request,
                                   v1::DeleteDatasetResponse* response) override;

 private:
  const Services* const services_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_DATASET_SERVICE_H_
