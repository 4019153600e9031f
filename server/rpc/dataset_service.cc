#include "server/rpc/dataset_service.h"

#include <memory>
#include <utility>

#include "engine/core/status_macros.h"
#include "server/base/errors.h"
#include "server/datasets/dataset_upload.h"
#include "server/rpc/calls.h"
#include "server/rpc/paging.h"

namespace lorad::server {
namespace {

constexpr char kList[] = "datasets";

class UploadCall : public ReadCall<v1::UploadDatasetRequest> {
 public:
  UploadCall(const Services* services, v1::UploadDatasetResponse* response)
      : ReadCall(services->pool), services_(services), response_(response) {}

 private:
  absl::StatusOr<bool> OnMessage(const v1::UploadDatasetRequest& request) override {
    if (upload_ == nullptr) return Begin(request);
    if (!request.has_chunk())
      return FieldError("chunk", "is required in all but the first message");
    RETURN_IF_ERROR(upload_->Append(request.chunk()));
    return true;
  }

  absl::StatusOr<bool> Begin(const v1::UploadDatasetRequest& request) {
    if (!request.has_metadata()) return FieldError("metadata", "is required in the first message");
    RETURN_IF_ERROR(CheckNotDraining(*services_));
    ASSIGN_OR_RETURN(upload_, services_->datasets->Begin(request.metadata()));
    if (!upload_->finished().has_value()) return true;
    *response_ = *upload_->finished();
    return false;
  }

  absl::Status OnEnd() override {
    if (upload_ == nullptr) return FieldError("metadata", "is required; the stream was empty");
    ASSIGN_OR_RETURN(*response_, upload_->Commit());
    return absl::OkStatus();
  }

  const Services* const services_;
  v1::UploadDatasetResponse* const response_;
  std::unique_ptr<DatasetUpload> upload_;
};

}  // namespace

grpc::ServerReadReactor<v1::UploadDatasetRequest>* DatasetServiceImpl::Upload(
    grpc::CallbackServerContext*, v1::UploadDatasetResponse* response) {
  auto* call = new UploadCall(services_, response);  // deletes itself
  call->Start();
  return call;
}

grpc::ServerUnaryReactor* DatasetServiceImpl::QueryUpload(grpc::CallbackServerContext* context,
                                                          const v1::QueryUploadRequest* request,
                                                          v1::QueryUploadResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(*response,
                     services_->datasets->QueryUpload(request->name(), request->request_id()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* DatasetServiceImpl::Validate(grpc::CallbackServerContext* context,
                                                       const v1::ValidateDatasetRequest* request,
                                                       v1::ValidateDatasetResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(*response->mutable_report(),
                     services_->datasets->Validate(request->name(), request->max_seq_length()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* DatasetServiceImpl::Get(grpc::CallbackServerContext* context,
                                                  const v1::GetDatasetRequest* request,
                                                  v1::Dataset* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(*response, services_->datasets->Get(request->name()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* DatasetServiceImpl::List(grpc::CallbackServerContext* context,
                                                   const v1::ListDatasetsRequest* request,
                                                   v1::ListDatasetsResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const int limit, PageSize(request->page_size()));
    ASSIGN_OR_RETURN(std::string position, DecodePageToken(kList, request->page_token()));
    ASSIGN_OR_RETURN(const std::vector<v1::Dataset> page,
                     services_->datasets->List(limit, position));
    response->mutable_datasets()->Assign(page.begin(), page.end());
    response->set_next_page_token(EncodePageToken(kList, position));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* DatasetServiceImpl::Delete(grpc::CallbackServerContext* context,
                                                     const v1::DeleteDatasetRequest* request,
                                                     v1::DeleteDatasetResponse*) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const v1::Dataset dataset, services_->datasets->Get(request->name()));
    RETURN_IF_ERROR(services_->jobs->CheckDatasetUnused(dataset));
    return services_->datasets->Delete(request->name());
  });
}

}  // namespace lorad::server
