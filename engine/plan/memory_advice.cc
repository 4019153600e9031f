// What to change to make a plan fit, cheapest first.
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/plan/memory_plan.h"

namespace lorad {
namespace {

bool IsLora(PlanMode mode) { return mode == PlanMode::kLora || mode == PlanMode::kQlora; }

// Changes the request; empty where there is nothing to change.
struct Change {
  std::function<std::string(MemoryRequest&)> apply;
  const char* cost;
};

std::string DoubleQuant(MemoryRequest& request) {
  if (request.precision < BasePrecision::kInt8 || request.double_quant) return "";
  request.double_quant = true;
  return "--double_quant=true";
}

std::string Page(MemoryRequest& request) {
  switch (request.optimizer) {
    case OptimizerKind::kAdamW:
      request.optimizer = OptimizerKind::kPagedAdamW;
      return "--optim=paged_adamw_32bit";
    case OptimizerKind::kAdamW8Bit:
      request.optimizer = OptimizerKind::kPagedAdamW8Bit;
      return "--optim=paged_adamw_8bit";
    default:
      return "";
  }
}

std::string Checkpoint(MemoryRequest& request, const char* policy) {
  if (request.checkpointing == policy) return "";
  request.checkpointing = policy;
  return absl::StrCat("--activations=", policy);
}

std::string FitCheckpointing(MemoryRequest& request) { return Checkpoint(request, "auto"); }
std::string CheckpointAll(MemoryRequest& request) {
  return request.checkpointing == "offload" ? "" : Checkpoint(request, "every_layer");
}
std::string Offload(MemoryRequest& request) { return Checkpoint(request, "offload"); }

std::string FuseAttention(MemoryRequest& request) {
  if (request.account != MemoryAccount::kTextbook || !IsLora(request.mode)) return "";
  if (request.precision == BasePrecision::kFp32 || request.precision == BasePrecision::kFp16)
    request.precision = BasePrecision::kBf16;
  request.account = MemoryAccount::kEngine;
  return request.precision == BasePrecision::kBf16 ? "--precision=bf16 --account=engine"
                                                   : "--account=engine";
}

std::string TrainAdapters(MemoryRequest& request) {
  if (request.mode != PlanMode::kFull) return "";
  request.mode = PlanMode::kLora;
  request.ranks.fill(16);
  for (const Projection p : kAllProjections) {
    int64_t& rank = request.ranks[static_cast<int>(p)];
    rank = std::min({rank, InFeatures(request.model, p), OutFeatures(request.model, p)});
  }
  return "--mode=lora --rank=16";
}

std::string HalfPrecision(MemoryRequest& request) {
  if (request.precision != BasePrecision::kFp32) return "";
  request.precision = BasePrecision::kBf16;
  return "--precision=bf16";
}

std::string FourBits(MemoryRequest& request) {
  if (request.mode == PlanMode::kFull || request.precision >= BasePrecision::kInt4) return "";
  request.precision = BasePrecision::kNf4;
  request.double_quant = true;
  if (request.mode == PlanMode::kLora) request.mode = PlanMode::kQlora;
  return request.mode == PlanMode::kQlora ? "--mode=qlora" : "--precision=nf4";
}

std::string SmallerBatch(MemoryRequest& request) {
  if (request.batch == 1) return "";
  if (request.mode != PlanMode::kInference) request.accumulation *= request.batch;
  request.batch = 1;
  return request.mode == PlanMode::kInference
             ? "--batch=1"
             : absl::StrCat("--batch=1 --accumulation=", request.accumulation);
}

std::string SmallerRank(MemoryRequest& request) {
  bool changed = false;
  for (int64_t& rank : request.ranks)
    if (rank > 8) rank = 8, changed = true;
  return changed && IsLora(request.mode) ? "--rank=8" : "";
}

std::string ShorterSequence(MemoryRequest& request) {
  if (request.sequence < 1024) return "";
  request.sequence /= 2;
  return absl::StrCat("--seq=", request.sequence);
}

}  // namespace

absl::StatusOr<std::vector<MemoryAdvice>> AdviseMemory(const MemoryRequest& request,
                                                       int64_t budget_bytes) {
  if (budget_bytes < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("budget_bytes is ", budget_bytes, "; it must be >= 1"));
  const Change changes[] = {
      {DoubleQuant, "nothing that is seen in the loss"},
      {FitCheckpointing, "as few layers computed again as fit"},
      {FuseAttention, "nothing: attention's matrices are never written"},
      {HalfPrecision, "rounding; faster on every GPU"},
      {Page, "updates read the moments over the bus; the same result"},
      {SmallerBatch, "fewer tokens at once, slower; the same gradient"},
      {CheckpointAll, "up to a third more computing; the same result"},
      {Offload, "layers' inputs cross the bus; the same result"},
      {[](MemoryRequest& r) -> std::string {
         if (r.optimizer != OptimizerKind::kPagedAdamW && r.optimizer != OptimizerKind::kAdamW)
           return "";
         r.optimizer = r.optimizer == OptimizerKind::kAdamW ? OptimizerKind::kAdamW8Bit
                                                            : OptimizerKind::kPagedAdamW8Bit;
         return r.optimizer == OptimizerKind::kAdamW8Bit ? "--optim=adamw_8bit"
                                                         : "--optim=paged_adamw_8bit";
       },
       "moments in 8 bits: a slightly different result"},
      {TrainAdapters, "adapters are trained in place of all weights"},
      {FourBits, "the base model in 4 bits"},
      {FuseAttention, "nothing: attention's matrices are never written"},
      {SmallerRank, "a smaller adapter"},
      {ShorterSequence, "longer samples are cut"},
      {ShorterSequence, "longer samples are cut"},
  };
  MemoryRequest now = request;
  now.budget_bytes = budget_bytes;
  ASSIGN_OR_RETURN(const MemoryPlan plan, MakeMemoryPlan(request));
  std::vector<MemoryAdvice> advice;
  for (int64_t total = plan.total_bytes; const Change& change : changes) {
    if (total <= budget_bytes) break;
    MemoryRequest next = now;
    std::string text = change.apply(next);
    if (text.empty()) continue;
    const absl::StatusOr<MemoryPlan> changed = MakeMemoryPlan(next);
    if (!changed.ok() || changed->total_bytes >= total) continue;
    now = std::move(next);
    total = changed->total_bytes;
    advice.push_back({std::move(text), change.cost, total, total <= budget_bytes});
  }
  return advice;
}

}  // namespace lorad
