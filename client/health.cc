#include "client/health.h"

#include "engine/core/status_macros.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"

namespace lorad::client {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

namespace {

std::string NameOf(const HealthCheckResponse& reply) {
  return HealthCheckResponse::ServingStatus_Name(reply.status());
}

}  // namespace

absl::StatusOr<std::string> HealthClient::Check(const std::string& service) {
  HealthCheckRequest request;
  request.set_service(service);
  const auto stub = grpc::health::v1::Health::NewStub(connection_->channel());
  ASSIGN_OR_RETURN(const auto reply, connection_->Unary<HealthCheckResponse>(
                                         {.idempotent = true}, [&](auto* context, auto* out) {
                                           return stub->Check(context, request, out);
                                         }));
  return NameOf(reply);
}

absl::Status HealthClient::Watch(const std::string& service,
                                 const std::function<bool(const std::string&)>& on_status) {
  HealthCheckRequest request;
  request.set_service(service);
  const auto stub = grpc::health::v1::Health::NewStub(connection_->channel());
  bool ended = false;
  const absl::Status status = connection_->Run({.stream = true}, [&](grpc::ClientContext& context) {
    const auto reader = stub->Watch(&context, request);
    HealthCheckResponse reply;
    while (!ended && reader->Read(&reply)) ended = !on_status(NameOf(reply));
    if (ended) context.TryCancel();
    return reader->Finish();
  });
  return ended ? absl::OkStatus() : status;
}

}  // namespace lorad::client
