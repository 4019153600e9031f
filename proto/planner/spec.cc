#include "proto/planner/spec.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "proto/planner/planner.h"

namespace lorad::planner {
namespace {

template <typename T>
using Names = std::pair<const char*, T>;

constexpr Names<PlanMode> kModes[] = {{"inference", PlanMode::kInference},
                                      {"full", PlanMode::kFull},
                                      {"lora", PlanMode::kLora},
                                      {"qlora", PlanMode::kQlora}};
constexpr Names<BasePrecision> kPrecisions[] = {
    {"fp32", BasePrecision::kFp32}, {"fp16", BasePrecision::kFp16}, {"bf16", BasePrecision::kBf16},
    {"int8", BasePrecision::kInt8}, {"int4", BasePrecision::kInt4}, {"fp4", BasePrecision::kFp4},
    {"nf4", BasePrecision::kNf4}};
constexpr Names<MemoryAccount> kAccounts[] = {{"textbook", MemoryAccount::kTextbook},
                                              {"engine", MemoryAccount::kEngine}};
constexpr Names<PlanDevice> kDevices[] = {{"cpu", PlanDevice::kCpu}, {"cuda", PlanDevice::kCuda}};

template <typename T, size_t n>
absl::StatusOr<T> Parse(const char* field, const std::string& value, const Names<T> (&known)[n]) {
  std::string names;
  for (const auto& [name, meaning] : known) {
    if (value == name) return meaning;
    absl::StrAppend(&names, names.empty() ? "" : ", ", name);
  }
  return absl::InvalidArgumentError(absl::StrCat(field, " is \"", value, "\"; known are ", names));
}

template <typename T, size_t n>
std::string NameOf(T value, const Names<T> (&known)[n]) {
  const auto* found = std::find_if(std::begin(known), std::end(known),
                                   [&](const auto& k) { return k.second == value; });
  return found->first;
}

std::string Or(const std::string& value, const char* otherwise) {
  return value.empty() ? otherwise : value;
}
int64_t Or(int64_t value, int64_t otherwise) { return value == 0 ? otherwise : value; }

absl::StatusOr<PlanRanks> RanksOf(const v1::PlanSpec& spec) {
  const int64_t rank = Or(spec.rank(), 16);
  PlanRanks ranks{};
  if (spec.target_modules().empty()) ranks.fill(rank);
  for (const std::string& target : spec.target_modules()) {
    bool known = target == "all-linear";
    for (const Projection p : kAllProjections) {
      if (target != "all-linear" && target != ProjectionName(p)) continue;
      ranks[static_cast<int>(p)] = rank;
      known = true;
    }
    if (!known)
      return absl::InvalidArgumentError(absl::StrCat(
          "target_modules has \"", target, "\"; known are all-linear, ", KnownProjections()));
  }
  return ranks;
}

// The engine trains adapters over weights in 16 or fewer bits.
bool EngineHas(const MemoryRequest& request) {
  return TrainsAdapters(request.mode) && IsOfEngine(request.precision);
}

}  // namespace

absl::StatusOr<MemoryRequest> RequestOf(const v1::PlanSpec& spec) {
  MemoryRequest request;
  ASSIGN_OR_RETURN(request.model, ConfigOf(spec.model()));
  ASSIGN_OR_RETURN(request.mode, Parse("mode", Or(spec.mode(), "qlora"), kModes));
  const char* precision = request.mode == PlanMode::kQlora ? "nf4" : "bf16";
  ASSIGN_OR_RETURN(request.precision,
                   Parse("precision", Or(spec.precision(), precision), kPrecisions));
  request.quant_block = static_cast<int32_t>(Or(spec.quant_block(), 64));
  request.double_quant = !spec.has_double_quant() || spec.double_quant();
  if (TrainsAdapters(request.mode)) {
    ASSIGN_OR_RETURN(request.ranks, RanksOf(spec));
    request.dropout = spec.dropout();
  }
  request.batch = Or(spec.batch(), 1);
  request.sequence = Or(spec.sequence(), 2048);
  request.accumulation = Or(spec.accumulation(), 1);
  ASSIGN_OR_RETURN(request.optimizer, ParseOptimizerKind(Or(spec.optim(), "adamw_torch")));
  ASSIGN_OR_RETURN(
      request.account,
      Parse("account", Or(spec.account(), EngineHas(request) ? "engine" : "textbook"), kAccounts));
  const bool textbook = request.account == MemoryAccount::kTextbook;
  request.checkpointing = Or(spec.activations(), textbook ? "none" : "every_layer");
  ASSIGN_OR_RETURN(request.device, Parse("device", Or(spec.device(), "cuda"), kDevices));
  // The CPU backend takes all cores unless it is told otherwise.
  request.cpu_threads = std::max(1, static_cast<int32_t>(std::thread::hardware_concurrency()));
  RETURN_IF_ERROR(Validate(request));
  return request;
}

std::string PrecisionName(QuantFormat format) { return NameOf(PrecisionOf(format), kPrecisions); }

v1::PlanSpec Filled(const v1::PlanSpec& spec, const MemoryRequest& request) {
  v1::PlanSpec filled = spec;
  filled.clear_model();
  filled.set_mode(NameOf(request.mode, kModes));
  filled.set_precision(NameOf(request.precision, kPrecisions));
  if (IsKBit(request.precision)) {
    filled.set_quant_block(request.quant_block);
    filled.set_double_quant(request.double_quant);
  }
  filled.set_batch(request.batch);
  filled.set_sequence(request.sequence);
  filled.set_account(NameOf(request.account, kAccounts));
  if (request.mode == PlanMode::kInference) return filled;
  filled.set_accumulation(request.accumulation);
  filled.set_optim(Or(spec.optim(), "adamw_torch"));
  filled.set_activations(request.checkpointing);
  if (request.account == MemoryAccount::kEngine)
    filled.set_device(NameOf(request.device, kDevices));
  if (request.mode == PlanMode::kFull) return filled;
  filled.set_rank(*std::max_element(request.ranks.begin(), request.ranks.end()));
  if (filled.target_modules().empty()) filled.add_target_modules("all-linear");
  return filled;
}

}  // namespace lorad::planner
