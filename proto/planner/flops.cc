#include "proto/planner/flops.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/core/status_macros.h"
#include "engine/plan/device_peak.h"
#include "engine/plan/flops.h"
#include "engine/plan/memory_plan.h"
#include "engine/plan/presets.h"
#include "engine/plan/textbook_flops.h"
#include "proto/planner/spec.h"

namespace lorad::planner {
namespace {

using Request = v1::CountFlopsRequest;
using v1::FlopAccount;

absl::Status Refuse(const std::string& message) { return absl::InvalidArgumentError(message); }

// An adapter on a served model is one as training would have it.
absl::StatusOr<PlanRanks> RanksOf(const v1::PlanSpec& spec, const MemoryRequest& plan) {
  if (plan.mode != PlanMode::kInference || spec.rank() == 0) return plan.ranks;
  v1::PlanSpec adapted = spec;
  adapted.set_mode("lora");
  adapted.clear_account();
  ASSIGN_OR_RETURN(const MemoryRequest training, RequestOf(adapted));
  return training.ranks;
}

absl::StatusOr<AdaptedModel> ModelOf(const Request& request, const MemoryRequest& plan) {
  AdaptedModel model{.config = plan.model, .quant = QuantOf(plan), .modules = {}};
  const int64_t layers = model.config.num_layers;
  if (request.first_layer() < 0 || request.first_layer() >= layers)
    return Refuse(absl::StrCat("first_layer is ", request.first_layer(), "; it must be in [0, ",
                               layers - 1, "]"));
  ASSIGN_OR_RETURN(const PlanRanks ranks, RanksOf(request.spec(), plan));
  for (const Projection p : kAllProjections) {
    const int64_t rank = ranks[static_cast<int>(p)];
    if (rank == 0) continue;
    const std::vector<AdaptedModule> modules =
        AdaptProjections(model.config, absl::MakeConstSpan(&p, 1), rank, request.first_layer());
    model.modules.insert(model.modules.end(), modules.begin(), modules.end());
  }
  return model;
}

SequenceGroup SequencesOf(const MemoryRequest& plan) {
  return {.length = plan.sequence, .count = plan.batch};
}

absl::StatusOr<TrainingShape> TrainingOf(const MemoryRequest& plan) {
  TrainingShape shape;
  ASSIGN_OR_RETURN(const ActivationPolicy policy,
                   ParseActivationPolicy(plan.checkpointing, plan.model.num_layers));
  if (policy.fits_to_memory)
    return Refuse(absl::StrCat("activations is \"", plan.checkpointing,
                               "\", which depends on memory; name the policy that a memory plan "
                               "chooses"));
  shape.checkpointing = policy.checkpointing;
  shape.optimizer = plan.optimizer;
  shape.dropout = plan.dropout;
  shape.micro_batches = {{.sequences = {SequencesOf(plan)}, .count = plan.accumulation}};
  return shape;
}

// Adds an account of `tokens` tokens.
void Add(FlopAccount::Rules rules, FlopAccount::Work work, int64_t tokens, const FlopCount& count,
         v1::CountFlopsResponse& response) {
  FlopAccount& account = *response.add_accounts();
  account.set_rules(rules);
  account.set_work(work);
  account.set_tokens(tokens);
  const auto fill = [](const PhaseFlops& flops, auto& message) {
    message.set_forward(flops[FlopPhase::kForward]);
    message.set_backward(flops[FlopPhase::kBackward]);
    message.set_recompute(flops[FlopPhase::kRecompute]);
    message.set_total(flops.total());
  };
  fill(count.Sum(), account);
  for (int op = 0; op < kNumPlanOps; ++op) {
    if (count.ops[op].total() == 0) continue;
    v1::OperationFlops& operation = *account.add_operations();
    operation.set_operation(std::string(Name(static_cast<PlanOp>(op))));
    fill(count.ops[op], operation);
  }
}

absl::Status AddTraining(const MemoryRequest& plan, const AdaptedModel& model,
                         v1::CountFlopsResponse& response) {
  ASSIGN_OR_RETURN(const TrainingShape shape, TrainingOf(plan));
  const bool full = plan.mode == PlanMode::kFull;
  ASSIGN_OR_RETURN(const FlopCount textbook, CountTextbookStep(model, shape, full));
  const MicroBatchShape& batch = shape.micro_batches[0];
  const int64_t tokens = batch.count * batch.tokens();
  Add(FlopAccount::RULES_TEXTBOOK, FlopAccount::WORK_STEP, tokens, textbook, response);
  if (full || !IsOfEngine(plan.precision)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const FlopCount engine, CountTrainingStep(model, shape));
  Add(FlopAccount::RULES_ENGINE, FlopAccount::WORK_STEP, tokens, engine, response);
  return absl::OkStatus();
}

absl::Status AddInference(const MemoryRequest& plan, const AdaptedModel& model,
                          v1::CountFlopsResponse& response) {
  const SequenceGroup group = SequencesOf(plan);
  const PrefillShape prompts{.prompt_tokens = group.length, .prompts = group.count};
  const int64_t tokens = group.count * group.length;
  const auto contexts = absl::MakeConstSpan(&group, 1);
  const bool engine_has = IsOfEngine(plan.precision);
  ASSIGN_OR_RETURN(const FlopCount textbook_prefill, CountTextbookPrefill(model, prompts));
  Add(FlopAccount::RULES_TEXTBOOK, FlopAccount::WORK_PREFILL, tokens, textbook_prefill, response);
  if (engine_has) {
    ASSIGN_OR_RETURN(const FlopCount prefill, CountPrefill(model, prompts));
    Add(FlopAccount::RULES_ENGINE, FlopAccount::WORK_PREFILL, tokens, prefill, response);
  }
  ASSIGN_OR_RETURN(const FlopCount textbook_decode, CountTextbookDecode(model, contexts));
  Add(FlopAccount::RULES_TEXTBOOK, FlopAccount::WORK_DECODE, group.count, textbook_decode,
      response);
  if (engine_has) {
    ASSIGN_OR_RETURN(const FlopCount decode, CountDecode(model, contexts));
    Add(FlopAccount::RULES_ENGINE, FlopAccount::WORK_DECODE, group.count, decode, response);
  }
  return absl::OkStatus();
}

absl::Status CheckTimes(const Request& request) {
  if (request.has_flops_per_second()) {
    RETURN_IF_ERROR(SecondsAt(0, request.flops_per_second()).status());
    if (request.has_measured_seconds())
      return Refuse("flops_per_second and measured_seconds are both given; choose one");
  }
  constexpr double kMostSeconds = 1e9;
  const double seconds = request.measured_seconds();
  if (request.has_measured_seconds() && !(seconds > 0 && seconds <= kMostSeconds))
    return Refuse(
        absl::StrCat("measured_seconds is ", seconds, "; it must be in (0, ", kMostSeconds, "]"));
  return absl::OkStatus();
}

absl::Status AddTimes(const Request& request, v1::CountFlopsResponse& response) {
  if (!request.card().empty()) {
    ASSIGN_OR_RETURN(const double peak, DevicePeak(request.card()));
    response.set_peak_flops_per_second(peak);
  }
  const double peak = response.peak_flops_per_second();
  for (FlopAccount& account : *response.mutable_accounts()) {
    const auto total = static_cast<double>(account.total());
    if (request.has_flops_per_second()) {
      account.set_flops_per_second(request.flops_per_second());
      account.set_seconds(total / request.flops_per_second());
    } else if (request.has_measured_seconds()) {
      account.set_flops_per_second(total / request.measured_seconds());
    }
    if (peak == 0) continue;
    account.set_seconds_at_peak(total / peak);
    if (account.has_flops_per_second())
      account.set_share_of_peak(account.flops_per_second() / peak);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::CountFlopsResponse> CountFlops(const Request& request) {
  v1::PlanSpec spec = request.spec();
  spec.clear_account();
  spec.clear_device();
  ASSIGN_OR_RETURN(const MemoryRequest plan, RequestOf(spec));
  const bool inference = plan.mode == PlanMode::kInference;
  RETURN_IF_ERROR(CheckTimes(request));
  if (inference && request.has_measured_seconds())
    return Refuse(
        "measured_seconds is of a training step; in mode inference give flops_per_second");
  ASSIGN_OR_RETURN(const AdaptedModel model, ModelOf(request, plan));
  v1::CountFlopsResponse response;
  RETURN_IF_ERROR(inference ? AddInference(plan, model, response)
                            : AddTraining(plan, model, response));
  *response.mutable_spec() = Filled(spec, plan);
  response.mutable_spec()->clear_account();
  response.mutable_spec()->clear_device();
  response.set_parameters(ParameterCount(model.config));
  if (plan.mode == PlanMode::kFull)
    response.set_trained_parameters(response.parameters());
  else if (!inference)
    response.set_trained_parameters(AdapterParameterCount(model));
  RETURN_IF_ERROR(AddTimes(request, response));
  return response;
}

}  // namespace lorad::planner
