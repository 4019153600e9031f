#include "server/rpc/planner_service.h"

#include "engine/core/status_macros.h"
#include "proto/planner/flops.h"
#include "proto/planner/memory.h"
#include "proto/planner/scaling.h"
#include "proto/planner/spec.h"
#include "server/rpc/calls.h"

namespace lorad::server {
namespace {

// What is not given is this server's: its model with its precision, and its kind of device.
v1::PlanSpec WithDefaults(v1::PlanSpec spec, const ModelInfo& model) {
  if (spec.device().empty()) spec.set_device(model.device_kind);
  if (spec.model().source_case() != v1::PlanModel::SOURCE_NOT_SET) return spec;
  spec.mutable_model()->set_config_json(model.config_json);
  // All weights can be trained in 16 bits or more alone, whatever the server holds them in.
  if (!spec.precision().empty() || spec.mode() == "full") return spec;
  const QuantSpec& quant = model.quant_spec;
  spec.set_precision(planner::PrecisionName(quant.format));
  if (quant.format == QuantFormat::kNone) return spec;
  if (spec.quant_block() == 0) spec.set_quant_block(quant.block);
  if (!spec.has_double_quant()) spec.set_double_quant(quant.double_quant);
  return spec;
}

// Bytes of the device that a job may have, and those that the base model and the ops have already:
// a plan counts them, too. 0: not limited.
int64_t AvailableBytes(const Engine& engine) {
  const EngineStats stats = engine.Stats();
  const auto usage = [&](MemoryTag tag) { return stats.memory[static_cast<int>(tag)]; };
  const int64_t training = usage(MemoryTag::kTraining).limit_bytes;
  if (training == 0) return 0;
  return training + engine.model().weight_bytes +
         (engine.model().device_kind == "cuda" ? usage(MemoryTag::kWorkspace).used_bytes : 0);
}

}  // namespace

grpc::ServerUnaryReactor* PlannerServiceImpl::PlanMemory(grpc::CallbackServerContext* context,
                                                         const v1::PlanMemoryRequest* request,
                                                         v1::PlanMemoryResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    v1::PlanMemoryRequest filled = *request;
    *filled.mutable_spec() = WithDefaults(request->spec(), services_->engine->model());
    if (filled.available_bytes() == 0)
      filled.set_available_bytes(AvailableBytes(*services_->engine));
    ASSIGN_OR_RETURN(*response, planner::PlanMemory(filled));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* PlannerServiceImpl::PlanCheckpointing(
    grpc::CallbackServerContext* context, const v1::PlanCheckpointingRequest* request,
    v1::PlanCheckpointingResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    v1::PlanCheckpointingRequest filled = *request;
    *filled.mutable_spec() = WithDefaults(request->spec(), services_->engine->model());
    ASSIGN_OR_RETURN(*response, planner::PlanCheckpointing(filled));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* PlannerServiceImpl::CountFlops(grpc::CallbackServerContext* context,
                                                         const v1::CountFlopsRequest* request,
                                                         v1::CountFlopsResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    v1::CountFlopsRequest filled = *request;
    *filled.mutable_spec() = WithDefaults(request->spec(), services_->engine->model());
    ASSIGN_OR_RETURN(*response, planner::CountFlops(filled));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* PlannerServiceImpl::FitScalingLaw(grpc::CallbackServerContext* context,
                                                            const v1::FitScalingLawRequest* request,
                                                            v1::FitScalingLawResponse* response) {
  return RunUnary(context, services_->pool, [=]() -> absl::Status {
    // The other cores are serving's.
    ASSIGN_OR_RETURN(*response, planner::FitScalingLaw(*request, /*threads=*/1));
    return absl::OkStatus();
  });
}

}  // namespace lorad::server
