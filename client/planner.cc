#include "client/planner.h"

#include "grpcpp/grpcpp.h"
#include "lorad/v1/planner_service.grpc.pb.h"

namespace lorad::client {

absl::StatusOr<v1::PlanMemoryResponse> PlannerClient::PlanMemory(
    const v1::PlanMemoryRequest& request) {
  const auto stub = v1::PlannerService::NewStub(connection_->channel());
  return connection_->Unary<v1::PlanMemoryResponse>(
      {.idempotent = true},
      [&](auto* context, auto* out) { return stub->PlanMemory(context, request, out); });
}

absl::StatusOr<v1::PlanCheckpointingResponse> PlannerClient::PlanCheckpointing(
    const v1::PlanCheckpointingRequest& request) {
  const auto stub = v1::PlannerService::NewStub(connection_->channel());
  return connection_->Unary<v1::PlanCheckpointingResponse>(
      {.idempotent = true},
      [&](auto* context, auto* out) { return stub->PlanCheckpointing(context, request, out); });
}

absl::StatusOr<v1::CountFlopsResponse> PlannerClient::CountFlops(
    const v1::CountFlopsRequest& request) {
  const auto stub = v1::PlannerService::NewStub(connection_->channel());
  return connection_->Unary<v1::CountFlopsResponse>(
      {.idempotent = true},
      [&](auto* context, auto* out) { return stub->CountFlops(context, request, out); });
}

absl::StatusOr<v1::FitScalingLawResponse> PlannerClient::FitScalingLaw(
    const v1::FitScalingLawRequest& request) {
  const auto stub = v1::PlannerService::NewStub(connection_->channel());
  return connection_->Unary<v1::FitScalingLawResponse>(
      {.idempotent = true},
      [&](auto* context, auto* out) { return stub->FitScalingLaw(context, request, out); });
}

}  // namespace lorad::client
