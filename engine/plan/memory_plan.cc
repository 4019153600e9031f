#include "engine/plan/memory_plan.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/plan/engine_memory.h"
#include "engine/plan/memory.h"
#include "engine/plan/presets.h"
#include "engine/plan/textbook_memory.h"

namespace lorad {
namespace {

struct KindText {
  std::string_view name, description;
};
constexpr KindText kKinds[kNumMemoryKinds] = {
    {"weights", "weights of the base model"},
    {"quant_constants", "scales and code books of k-bit weights"},
    {"adapters", "adapters"},
    {"gradients", "gradients of what is trained"},
    {"moments", "moments of the optimiser"},
    {"kv_cache", "keys and values of all tokens"},
    {"norm_inputs", "inputs of the norms: the residual stream"},
    {"qkv_input", "input of q, k and v"},
    {"query", "q"},
    {"key", "k"},
    {"value", "v"},
    {"scores", "attention matrix"},
    {"softmax", "softmax of the attention matrix, or its sums"},
    {"projection", "attention's output, input of the projection"},
    {"mlp", "MLP: input, gate and up"},
    {"lora_inputs", "x A^T of the adapters"},
    {"logits", "logits, losses and the batch"},
    {"scratch", "gradients of activations"},
    {"workspace", "scratch of operations"},
};

constexpr std::pair<BasePrecision, QuantFormat> kFormats[] = {
    {BasePrecision::kInt8, QuantFormat::kInt8},
    {BasePrecision::kInt4, QuantFormat::kInt4},
    {BasePrecision::kFp4, QuantFormat::kFp4},
    {BasePrecision::kNf4, QuantFormat::kNf4}};

absl::Status OutOfRange(const std::string& name, int64_t value, int64_t least, int64_t most) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, "; it must be in [", least, ", ", most, "]"));
}

absl::Status CheckRanks(const MemoryRequest& request) {
  if (!TrainsAdapters(request.mode)) return absl::OkStatus();
  constexpr int64_t kMostRank = 1024;
  bool any = false;
  for (const Projection p : kAllProjections) {
    const int64_t rank = request.ranks[static_cast<int>(p)];
    const int64_t most =
        std::min({kMostRank, InFeatures(request.model, p), OutFeatures(request.model, p)});
    if (rank < 0 || rank > most)
      return OutOfRange(absl::StrCat("rank of ", std::string(ProjectionName(p))), rank, 0, most);
    any = any || rank > 0;
  }
  if (!any)
    return absl::InvalidArgumentError(
        "rank: no linear has an adapter; give a rank >= 1 and targets");
  return absl::OkStatus();
}

absl::Status CheckPrecision(const MemoryRequest& request) {
  if (request.mode == PlanMode::kFull && IsKBit(request.precision))
    return absl::InvalidArgumentError(
        "precision: k-bit weights are frozen and cannot be trained in mode full; use mode qlora");
  if (IsKBit(request.precision) && (request.quant_block < 32 || request.quant_block > 4096 ||
                                    (request.quant_block & (request.quant_block - 1)) != 0))
    return absl::InvalidArgumentError(absl::StrCat("quant_block is ", request.quant_block,
                                                   "; it must be a power of two in [32, 4096]"));
  if (request.account == MemoryAccount::kEngine && request.mode == PlanMode::kFull)
    return absl::InvalidArgumentError(
        "mode full: the engine trains adapters alone; plan it with the textbook's account");
  if (request.account == MemoryAccount::kEngine && request.mode == PlanMode::kInference)
    return absl::InvalidArgumentError(
        "mode inference: the engine gives its KV cache what is left, which `lorad --check` prints; "
        "plan it with the textbook's account");
  if (request.account == MemoryAccount::kEngine && !IsOfEngine(request.precision))
    return absl::InvalidArgumentError(
        "precision: the engine holds weights in bf16 or k bits; plan fp32 and fp16 with the "
        "textbook's account");
  return absl::OkStatus();
}

// Far from where the sums of a plan would overflow, by an estimate from above in floating point.
absl::Status CheckSize(const MemoryRequest& request) {
  const auto& m = request.model;
  const double tokens = static_cast<double>(request.batch) * static_cast<double>(request.sequence);
  const double heads = static_cast<double>(m.num_heads);
  const double row = 8.0 * static_cast<double>(m.hidden_size) +
                     4.0 * heads * static_cast<double>(m.head_dim) +
                     4.0 * static_cast<double>(m.intermediate_size) +
                     2.0 * heads * static_cast<double>(request.sequence) + 8.0 * 1024;
  const double layers = static_cast<double>(m.num_layers);
  const double elements = tokens * (layers * row + 4.0 * static_cast<double>(m.vocab_size)) +
                          tokens * static_cast<double>(request.accumulation);
  constexpr double kMostBytes = 1e18;
  if (8 * elements > kMostBytes)
    return absl::InvalidArgumentError(absl::StrCat(
        "batch is ", request.batch, " and sequence ", request.sequence, ": activations of about ",
        8 * elements, " bytes; at most ", kMostBytes, " can be planned for"));
  return absl::OkStatus();
}

}  // namespace

std::string_view Name(MemoryKind kind) { return kKinds[static_cast<int>(kind)].name; }
std::string_view Description(MemoryKind kind) { return kKinds[static_cast<int>(kind)].description; }
bool IsActivation(MemoryKind kind) {
  return kind >= MemoryKind::kNormInputs && kind <= MemoryKind::kScratch;
}

int64_t TrainedParameters(const MemoryRequest& request) {
  if (request.mode == PlanMode::kInference) return 0;
  if (request.mode == PlanMode::kFull) return ParameterCount(request.model);
  int64_t layer = 0;
  for (const Projection p : kAllProjections)
    layer += request.ranks[static_cast<int>(p)] *
             (InFeatures(request.model, p) + OutFeatures(request.model, p));
  return request.model.num_layers * layer;
}

QuantSpec QuantOf(const MemoryRequest& request) {
  QuantSpec quant{QuantFormat::kNone, request.quant_block, request.double_quant};
  for (const auto& [precision, format] : kFormats)
    if (precision == request.precision) quant.format = format;
  return quant;
}

BasePrecision PrecisionOf(QuantFormat wanted) {
  for (const auto& [precision, format] : kFormats)
    if (format == wanted) return precision;
  return BasePrecision::kBf16;
}

absl::Status Validate(const MemoryRequest& request) {
  RETURN_IF_ERROR(CheckPlannable(request.model));
  const struct {
    const char* name;
    int64_t value, most;
  } counts[] = {{"batch", request.batch, int64_t{1} << 20},
                {"sequence", request.sequence, int64_t{1} << 24},
                {"accumulation", request.accumulation, int64_t{1} << 20},
                {"cpu_threads", request.cpu_threads, 1024}};
  for (const auto& [name, value, most] : counts)
    if (value < 1 || value > most) return OutOfRange(name, value, 1, most);
  if (request.budget_bytes < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("budget_bytes is ", request.budget_bytes, "; it must be >= 0 (0: none)"));
  RETURN_IF_ERROR(CheckRanks(request));
  RETURN_IF_ERROR(CheckPrecision(request));
  RETURN_IF_ERROR(ParseActivationPolicy(request.checkpointing, request.model.num_layers).status());
  return CheckSize(request);
}

absl::StatusOr<MemoryPlan> MakeMemoryPlan(const MemoryRequest& request) {
  RETURN_IF_ERROR(Validate(request));
  const bool engine = request.account == MemoryAccount::kEngine;
  ASSIGN_OR_RETURN(MemoryPlan plan, engine ? PlanEngineTraining(request) : PlanTextbook(request));
  plan.total_bytes = std::accumulate(plan.bytes.begin(), plan.bytes.end(), int64_t{0});
  plan.parameters = ParameterCount(request.model);
  plan.trained_parameters = TrainedParameters(request);
  plan.bits_per_weight =
      request.precision == BasePrecision::kFp32 ? 32 : BitsPerWeight(QuantOf(request));
  if (request.mode != PlanMode::kInference)
    plan.checkpointing_text = Describe(plan.checkpointing, request.model.num_layers);
  return plan;
}

std::vector<CardCount> CountCards(int64_t bytes) {
  std::vector<CardCount> cards;
  for (const int64_t gigabytes : {24, 48, 80, 141}) {
    const int64_t card = gigabytes * 1'000'000'000;
    cards.push_back(
        {absl::StrCat(gigabytes, " GB"), card, std::max<int64_t>(1, CeilDiv(bytes, card))});
  }
  return cards;
}

}  // namespace lorad
