#include "proto/planner/memory.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/plan/checkpointing.h"
#include "engine/plan/memory_plan.h"
#include "proto/planner/spec.h"

namespace lorad::planner {
namespace {

void AddItems(const MemoryPlan& plan, v1::PlanMemoryResponse& response) {
  for (int i = 0; i < kNumMemoryKinds; ++i) {
    if (plan.bytes[i] == 0) continue;
    const auto kind = static_cast<MemoryKind>(i);
    v1::MemoryItem* item = response.add_items();
    item->set_kind(std::string(Name(kind)));
    item->set_description(std::string(Description(kind)));
    item->set_bytes(plan.bytes[i]);
    item->set_activation(IsActivation(kind));
  }
}

void AddCards(int64_t bytes, v1::PlanMemoryResponse& response) {
  for (const CardCount& count : CountCards(bytes)) {
    v1::CardCount* card = response.add_cards();
    card->set_card(count.card);
    card->set_card_bytes(count.card_bytes);
    card->set_count(count.count);
  }
}

absl::Status AddAdvice(const MemoryRequest& request, int64_t available,
                       v1::PlanMemoryResponse& response) {
  ASSIGN_OR_RETURN(const std::vector<MemoryAdvice> advice, AdviseMemory(request, available));
  for (const MemoryAdvice& one : advice) {
    v1::MemoryAdvice* proto = response.add_advice();
    for (const MemoryAdvice::Setting& setting : one.settings)
      proto->add_settings(absl::StrCat(setting.name, "=", setting.value));
    proto->set_cost(one.cost);
    proto->set_total_bytes(one.total_bytes);
    proto->set_fits(one.fits);
  }
  return absl::OkStatus();
}

void AddPoints(const std::vector<CheckpointingPoint>& points,
               google::protobuf::RepeatedPtrField<v1::CheckpointingPoint>* protos) {
  for (const CheckpointingPoint& point : points) {
    v1::CheckpointingPoint* proto = protos->Add();
    proto->set_policy(point.policy);
    proto->set_total_bytes(point.cost.peak_bytes);
    proto->set_recomputed_layers(point.cost.recomputed_layers);
  }
}

}  // namespace

absl::StatusOr<v1::PlanMemoryResponse> PlanMemory(const v1::PlanMemoryRequest& request) {
  if (request.available_bytes() < 0)
    return absl::InvalidArgumentError(absl::StrCat("available_bytes is ", request.available_bytes(),
                                                   "; it must be >= 0 (0: not known)"));
  ASSIGN_OR_RETURN(MemoryRequest plain, RequestOf(request.spec()));
  plain.budget_bytes = request.available_bytes();
  ASSIGN_OR_RETURN(const MemoryPlan plan, MakeMemoryPlan(plain));
  v1::PlanMemoryResponse response;
  *response.mutable_spec() = Filled(request.spec(), plain);
  AddItems(plan, response);
  AddCards(plan.total_bytes, response);
  response.set_total_bytes(plan.total_bytes);
  response.set_pinned_bytes(plan.pinned_bytes);
  response.set_parameters(plan.parameters);
  response.set_trained_parameters(plan.trained_parameters);
  response.set_bits_per_weight(plan.bits_per_weight);
  response.set_checkpointing(plan.checkpointing_text);
  if (request.available_bytes() == 0) return response;
  response.set_available_bytes(request.available_bytes());
  response.set_fits(plan.total_bytes <= request.available_bytes());
  if (!response.fits()) RETURN_IF_ERROR(AddAdvice(plain, request.available_bytes(), response));
  return response;
}

absl::StatusOr<v1::PlanCheckpointingResponse> PlanCheckpointing(
    const v1::PlanCheckpointingRequest& request) {
  v1::PlanSpec spec = request.spec();
  spec.set_activations("every_layer");
  ASSIGN_OR_RETURN(const MemoryRequest plain, RequestOf(spec));
  if (plain.mode == PlanMode::kInference)
    return absl::InvalidArgumentError(
        "mode is \"inference\", which keeps no activations; it must be full, lora or qlora");
  ASSIGN_OR_RETURN(const MemoryPlan plan, MakeMemoryPlan(plain));
  const int32_t points = request.points() == 0 ? 24 : request.points();
  ASSIGN_OR_RETURN(const CheckpointingCurve curve, DrawCheckpointingCurve(plan.chain, points));
  v1::PlanCheckpointingResponse response;
  AddPoints(curve.policies, response.mutable_policies());
  AddPoints(curve.segments, response.mutable_segments());
  AddPoints(curve.optimal, response.mutable_optimal());
  response.set_num_layers(plan.chain.num_layers);
  response.set_input_bytes(plan.chain.input_bytes);
  response.set_layer_bytes(plan.chain.layer_bytes);
  if (request.budget_bytes() > 0) {
    ASSIGN_OR_RETURN(const ActivationCheckpointing best,
                     BestSegments(plan.chain, request.budget_bytes()));
    response.set_best(Describe(best, plan.chain.num_layers));
  }
  return response;
}

}  // namespace lorad::planner
