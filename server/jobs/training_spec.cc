#include "server/jobs/training_spec.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/core/status_macros.h"
#include "server/base/errors.h"

namespace lorad::server {
namespace {

constexpr int32_t kMaxRank = 1024;
constexpr double kInf = std::numeric_limits<double>::infinity();

absl::Status SpecError(absl::string_view field, absl::string_view what) {
  return FieldError(absl::StrCat("spec.training.", field), what);
}

// "[lo, hi]" with round brackets where the end is excluded; +-infinity as an end is no bound.
struct Interval {
  double lo = -kInf, hi = kInf;
  bool lo_open = false, hi_open = false;

  bool Contains(double x) const {  // false for NaN
    return (lo_open ? x > lo : x >= lo) && (hi_open ? x < hi : x <= hi) && std::isfinite(x);
  }
  std::string ToString() const {
    if (hi == kInf) return absl::StrCat(lo_open ? "> " : ">= ", lo);
    return absl::StrCat("in ", lo_open ? "(" : "[", lo, ", ", hi, hi_open ? ")" : "]");
  }
};

absl::Status CheckRange(absl::string_view field, double value, const Interval& interval) {
  if (interval.Contains(value)) return absl::OkStatus();
  return SpecError(field, absl::StrCat(value, " must be ", interval.ToString()));
}

absl::Status CheckOneOf(absl::string_view field, absl::string_view value,
                        std::initializer_list<absl::string_view> known) {
  if (std::find(known.begin(), known.end(), value) != known.end()) return absl::OkStatus();
  return SpecError(field, absl::StrCat("\"", value, "\" is none of ", absl::StrJoin(known, ", ")));
}

constexpr Interval kPositive{.lo = 0, .lo_open = true};
constexpr Interval kNotNegative{.lo = 0};
constexpr Interval kAtLeastOne{.lo = 1};
constexpr Interval kUnit{.lo = 0, .hi = 1};
constexpr Interval kUnitOpen{.lo = 0, .hi = 1, .hi_open = true};

absl::Status CheckLora(const v1::TrainingSpec& spec) {
  RETURN_IF_ERROR(CheckRange("r", spec.r(), {.lo = 1, .hi = kMaxRank}));
  RETURN_IF_ERROR(CheckRange("lora_alpha", spec.lora_alpha(), kPositive));
  RETURN_IF_ERROR(CheckRange("lora_dropout", spec.lora_dropout(), kUnitOpen));
  for (const std::string& target : spec.target_modules()) {
    if (target.empty()) return SpecError("target_modules", "holds an empty entry");
    const bool alone = target == "all-linear" || absl::StartsWith(target, "regex:");
    if (alone && spec.target_modules_size() > 1) {
      return SpecError("target_modules",
                       absl::StrCat("\"", target, "\" must be the only entry, there are ",
                                    spec.target_modules_size()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSchedule(const v1::TrainingSpec& spec) {
  RETURN_IF_ERROR(CheckRange("learning_rate", spec.learning_rate(), kPositive));
  RETURN_IF_ERROR(CheckOneOf("lr_scheduler_type", spec.lr_scheduler_type(),
                             {"constant", "constant_with_warmup", "linear", "cosine"}));
  RETURN_IF_ERROR(CheckRange("warmup_steps", spec.warmup_steps(), kNotNegative));
  RETURN_IF_ERROR(CheckRange("warmup_ratio", spec.warmup_ratio(), kUnit));
  RETURN_IF_ERROR(CheckRange("num_train_epochs", spec.num_train_epochs(), kPositive));
  return CheckRange("max_steps", spec.max_steps(), kNotNegative);
}

absl::Status CheckBatch(const v1::TrainingSpec& spec, int32_t context_tokens) {
  RETURN_IF_ERROR(CheckRange("micro_batch_size", spec.micro_batch_size(), kAtLeastOne));
  RETURN_IF_ERROR(
      CheckRange("gradient_accumulation_steps", spec.gradient_accumulation_steps(), kAtLeastOne));
  return CheckRange("max_seq_length", spec.max_seq_length(),
                    {.lo = 2, .hi = static_cast<double>(context_tokens)});
}

absl::Status CheckOptimizer(const v1::TrainingSpec& spec) {
  RETURN_IF_ERROR(CheckRange("max_grad_norm", spec.max_grad_norm(), kNotNegative));
  RETURN_IF_ERROR(CheckRange("weight_decay", spec.weight_decay(), kNotNegative));
  RETURN_IF_ERROR(CheckRange("adam_beta1", spec.adam_beta1(), kUnitOpen));
  RETURN_IF_ERROR(CheckRange("adam_beta2", spec.adam_beta2(), kUnitOpen));
  RETURN_IF_ERROR(CheckRange("adam_epsilon", spec.adam_epsilon(), kPositive));
  return CheckOneOf("optim", spec.optim(),
                    {"adamw_torch", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"});
}

absl::Status CheckReporting(const v1::TrainingSpec& spec, bool has_eval_dataset) {
  RETURN_IF_ERROR(CheckRange("eval_steps", spec.eval_steps(), kNotNegative));
  RETURN_IF_ERROR(CheckRange("save_steps", spec.save_steps(), kNotNegative));
  RETURN_IF_ERROR(CheckRange("logging_steps", spec.logging_steps(), kAtLeastOne));
  RETURN_IF_ERROR(
      CheckRange("early_stopping_patience", spec.early_stopping_patience(), kNotNegative));
  if (has_eval_dataset) return absl::OkStatus();
  if (spec.early_stopping_patience() > 0) {
    return SpecError("early_stopping_patience", "needs spec.eval_dataset, which is not set");
  }
  if (spec.eval_steps() > 0) {
    return SpecError("eval_steps", "needs spec.eval_dataset, which is not set");
  }
  return absl::OkStatus();
}

absl::Status CheckActivationCheckpointing(const v1::TrainingSpec& spec) {
  absl::string_view policy = spec.activation_checkpointing();
  for (const absl::string_view known : {"none", "every_layer", "sqrt", "offload", "auto"})
    if (policy == known) return absl::OkStatus();
  int32_t k = 0;
  if (absl::ConsumePrefix(&policy, "every_k:") && absl::SimpleAtoi(policy, &k) && k >= 1) {
    return absl::OkStatus();
  }
  return SpecError("activation_checkpointing",
                   absl::StrCat("\"", spec.activation_checkpointing(),
                                "\" is none of none, every_layer, every_k:K with K >= 1, sqrt, "
                                "offload, auto"));
}

absl::Status CheckWarmStart(const v1::TrainingSpec& spec, const v1::Adapter& from) {
  const auto differs = [&](absl::string_view field, auto ours, auto theirs) {
    return SpecError(field, absl::StrCat(ours, " differs from ", theirs, " of ", from.ref(),
                                         ", which warm_start names; leave it unset"));
  };
  if (spec.r() != from.r()) return differs("r", spec.r(), from.r());
  if (spec.lora_alpha() != from.lora_alpha()) {
    return differs("lora_alpha", spec.lora_alpha(), from.lora_alpha());
  }
  if (spec.use_rslora() != from.use_rslora()) {
    return differs("use_rslora", spec.use_rslora(), from.use_rslora());
  }
  return absl::OkStatus();
}

void FillLoraDefaults(v1::TrainingSpec& spec, const v1::Adapter* warm_start) {
  const LoraSpec defaults;
  if (!spec.has_r()) spec.set_r(warm_start != nullptr ? warm_start->r() : defaults.r);
  if (!spec.has_lora_alpha()) {
    spec.set_lora_alpha(warm_start != nullptr ? warm_start->lora_alpha() : defaults.lora_alpha);
  }
  if (!spec.has_lora_dropout()) spec.set_lora_dropout(defaults.lora_dropout);
  if (!spec.has_use_rslora()) {
    spec.set_use_rslora(warm_start != nullptr ? warm_start->use_rslora() : defaults.use_rslora);
  }
  if (spec.target_modules().empty()) {
    if (warm_start != nullptr) {
      *spec.mutable_target_modules() = warm_start->target_modules();
    } else {
      spec.mutable_target_modules()->Assign(defaults.target_modules.begin(),
                                            defaults.target_modules.end());
    }
  }
  if (!spec.has_warm_start()) spec.set_warm_start("");
}

}  // namespace

// One line per field of the same name in both.
#define LORAD_FILL(name) \
  if (!spec.has_##name()) spec.set_##name(defaults.name)

void FillDefaults(v1::TrainingSpec& spec, int32_t context_tokens, const v1::Adapter* warm_start) {
  const TrainingSpec defaults;
  FillLoraDefaults(spec, warm_start);
  LORAD_FILL(learning_rate);
  LORAD_FILL(lr_scheduler_type);
  LORAD_FILL(warmup_steps);
  LORAD_FILL(warmup_ratio);
  LORAD_FILL(num_train_epochs);
  LORAD_FILL(max_steps);
  LORAD_FILL(micro_batch_size);
  LORAD_FILL(gradient_accumulation_steps);
  if (!spec.has_max_seq_length()) {
    spec.set_max_seq_length(std::min(defaults.max_seq_length, context_tokens));
  }
  LORAD_FILL(packing);
  LORAD_FILL(shuffle);
  LORAD_FILL(max_grad_norm);
  LORAD_FILL(weight_decay);
  LORAD_FILL(adam_beta1);
  LORAD_FILL(adam_beta2);
  LORAD_FILL(adam_epsilon);
  LORAD_FILL(optim);
  LORAD_FILL(eval_steps);
  LORAD_FILL(save_steps);
  LORAD_FILL(serve_checkpoints);
  LORAD_FILL(logging_steps);
  LORAD_FILL(early_stopping_patience);
  LORAD_FILL(seed);
  LORAD_FILL(activation_checkpointing);
}
#undef LORAD_FILL

absl::Status CheckTrainingSpec(const v1::TrainingSpec& spec, bool has_eval_dataset,
                               int32_t context_tokens, const v1::Adapter* warm_start) {
  RETURN_IF_ERROR(CheckLora(spec));
  RETURN_IF_ERROR(CheckSchedule(spec));
  RETURN_IF_ERROR(CheckBatch(spec, context_tokens));
  RETURN_IF_ERROR(CheckOptimizer(spec));
  RETURN_IF_ERROR(CheckReporting(spec, has_eval_dataset));
  RETURN_IF_ERROR(CheckActivationCheckpointing(spec));
  return warm_start == nullptr ? absl::OkStatus() : CheckWarmStart(spec, *warm_start);
}

#define LORAD_COPY(name) out.name = spec.name()

TrainingSpec ToEngine(const v1::TrainingSpec& spec) {
  TrainingSpec out;
  out.lora.r = spec.r();
  out.lora.lora_alpha = spec.lora_alpha();
  out.lora.lora_dropout = spec.lora_dropout();
  out.lora.use_rslora = spec.use_rslora();
  out.lora.target_modules.assign(spec.target_modules().begin(), spec.target_modules().end());
  LORAD_COPY(learning_rate);
  LORAD_COPY(lr_scheduler_type);
  LORAD_COPY(warmup_steps);
  LORAD_COPY(warmup_ratio);
  LORAD_COPY(num_train_epochs);
  LORAD_COPY(max_steps);
  LORAD_COPY(micro_batch_size);
  LORAD_COPY(gradient_accumulation_steps);
  LORAD_COPY(max_seq_length);
  LORAD_COPY(packing);
  LORAD_COPY(shuffle);
  LORAD_COPY(max_grad_norm);
  LORAD_COPY(weight_decay);
  LORAD_COPY(adam_beta1);
  LORAD_COPY(adam_beta2);
  LORAD_COPY(adam_epsilon);
  if (spec.has_optim()) LORAD_COPY(optim);  // a job stored before there was a choice has none
  LORAD_COPY(eval_steps);
  LORAD_COPY(save_steps);
  LORAD_COPY(serve_checkpoints);
  LORAD_COPY(logging_steps);
  LORAD_COPY(early_stopping_patience);
  LORAD_COPY(seed);
  LORAD_COPY(activation_checkpointing);
  return out;
}
#undef LORAD_COPY

}  // namespace lorad::server
