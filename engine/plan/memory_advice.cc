// What to change to make a plan fit, cheapest first.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/plan/memory_plan.h"

namespace lorad {
namespace {

using Settings = std::vector<MemoryAdvice::Setting>;

// Each of these changes the request and says how; empty where there is nothing to change.

Settings DoubleQuant(MemoryRequest& request) {
  if (!IsKBit(request.precision) || request.double_quant) return {};
  request.double_quant = true;
  return {{"double_quant", "true"}};
}

Settings Checkpoint(MemoryRequest& request, const char* policy) {
  if (request.mode == PlanMode::kInference || request.checkpointing == policy) return {};
  request.checkpointing = policy;
  return {{"activations", policy}};
}
Settings FitCheckpointing(MemoryRequest& request) { return Checkpoint(request, "auto"); }
Settings CheckpointAll(MemoryRequest& request) {
  return request.checkpointing == "offload" ? Settings{} : Checkpoint(request, "every_layer");
}
Settings Offload(MemoryRequest& request) { return Checkpoint(request, "offload"); }

Settings FuseAttention(MemoryRequest& request) {
  if (request.account != MemoryAccount::kTextbook || !TrainsAdapters(request.mode)) return {};
  request.account = MemoryAccount::kEngine;
  Settings settings = {{"account", "engine"}};
  if (!IsOfEngine(request.precision)) {
    request.precision = BasePrecision::kBf16;
    settings.push_back({"precision", "bf16"});
  }
  return settings;
}

Settings HalfPrecision(MemoryRequest& request) {
  if (request.precision != BasePrecision::kFp32) return {};
  request.precision = BasePrecision::kBf16;
  return {{"precision", "bf16"}};
}

Settings PageMoments(MemoryRequest& request) {
  if (IsPaged(request.optimizer)) return {};
  const bool eight_bit = IsEightBit(request.optimizer);
  request.optimizer = eight_bit ? OptimizerKind::kPagedAdamW8Bit : OptimizerKind::kPagedAdamW;
  return {{"optim", eight_bit ? "paged_adamw_8bit" : "paged_adamw_32bit"}};
}

Settings EightBitMoments(MemoryRequest& request) {
  if (IsEightBit(request.optimizer)) return {};
  const bool paged = IsPaged(request.optimizer);
  request.optimizer = paged ? OptimizerKind::kPagedAdamW8Bit : OptimizerKind::kAdamW8Bit;
  return {{"optim", paged ? "paged_adamw_8bit" : "adamw_8bit"}};
}

Settings SmallerBatch(MemoryRequest& request) {
  if (request.batch == 1) return {};
  Settings settings = {{"batch", "1"}};
  if (request.mode != PlanMode::kInference) {
    request.accumulation *= request.batch;
    settings.push_back({"accumulation", absl::StrCat(request.accumulation)});
  }
  request.batch = 1;
  return settings;
}

Settings TrainAdapters(MemoryRequest& request) {
  if (request.mode != PlanMode::kFull) return {};
  request.mode = PlanMode::kLora;
  for (const Projection p : kAllProjections)
    request.ranks[static_cast<int>(p)] =
        std::min<int64_t>({16, InFeatures(request.model, p), OutFeatures(request.model, p)});
  return {{"mode", "lora"}};
}

Settings FourBits(MemoryRequest& request) {
  if (request.mode == PlanMode::kFull || request.precision >= BasePrecision::kInt4) return {};
  request.precision = BasePrecision::kNf4;
  request.double_quant = true;
  if (request.mode != PlanMode::kLora) return {{"precision", "nf4"}};
  request.mode = PlanMode::kQlora;
  return {{"mode", "qlora"}};
}

Settings SmallerRank(MemoryRequest& request) {
  constexpr int64_t kSmall = 8;
  if (!TrainsAdapters(request.mode)) return {};
  bool changed = false;
  for (int64_t& rank : request.ranks)
    if (rank > kSmall) rank = kSmall, changed = true;
  return changed ? Settings{{"rank", absl::StrCat(kSmall)}} : Settings{};
}

Settings ShorterSequence(MemoryRequest& request) {
  if (request.sequence < 2) return {};
  request.sequence /= 2;
  return {{"seq", absl::StrCat(request.sequence)}};
}

// A change that takes off less than one in so many of the bytes that are too many is no advice.
constexpr int64_t kLeastShare = 50;

struct Change {
  Settings (*apply)(MemoryRequest& request);
  const char* cost;
  bool of_base = false;
};
constexpr Change kChanges[] = {
    {DoubleQuant, "nothing that the loss shows", true},
    {FitCheckpointing, "as few layers computed again as fit"},
    {FuseAttention, "nothing: attention's matrices are never written"},
    {HalfPrecision, "rounding, and faster on every GPU", true},
    {PageMoments, "updates reach the moments over the bus; the same result"},
    {SmallerBatch, "fewer tokens at once, slower; the same gradient"},
    {CheckpointAll, "up to a third more computing; the same result"},
    {Offload, "inputs of layers cross the bus; the same result"},
    {EightBitMoments, "moments in 8 bits, a slightly different result"},
    {TrainAdapters, "adapters are trained in the place of all weights"},
    {FourBits, "the base model in 4 bits", true},
    {FuseAttention, "nothing: attention's matrices are never written"},
    {SmallerRank, "a smaller adapter"},
    {ShorterSequence, "longer samples are cut"},
    {ShorterSequence, "longer samples are cut"},
};

}  // namespace

absl::StatusOr<std::vector<MemoryAdvice>> AdviseMemory(const MemoryRequest& request,
                                                       int64_t budget_bytes, bool keeps_base) {
  if (budget_bytes < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("budget_bytes is ", budget_bytes, "; it must be >= 1"));
  ASSIGN_OR_RETURN(const MemoryPlan plan, MakeMemoryPlan(request));
  MemoryRequest now = request;
  now.budget_bytes = budget_bytes;
  int64_t total = plan.total_bytes;
  std::vector<MemoryAdvice> advice;
  for (const Change& change : kChanges) {
    if (total <= budget_bytes) break;
    if (keeps_base && change.of_base) continue;
    MemoryRequest next = now;
    Settings settings = change.apply(next);
    if (settings.empty()) continue;
    const absl::StatusOr<MemoryPlan> changed = MakeMemoryPlan(next);
    if (!changed.ok() || changed->total_bytes >= total) continue;
    const bool fits = changed->total_bytes <= budget_bytes;
    if (!fits && total - changed->total_bytes < (total - budget_bytes) / kLeastShare) continue;
    now = std::move(next);
    total = changed->total_bytes;
    advice.push_back({std::move(settings), change.cost, total, fits});
  }
  return advice;
}

}  // namespace lorad
