#include "engine/train/spec_check.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/plan/optimizer_kind.h"

namespace lorad {
namespace {

template <typename T>
absl::Status Require(bool holds, const char* field, T value, const char* bound) {
  if (holds) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; it must be ", bound));
}

absl::Status CheckOptimizer(const TrainingSpec& spec) {
  // Written so that NaN fails: it compares false.
  const auto positive = [](double x) { return x > 0 && std::isfinite(x); };
  const auto not_negative = [](double x) { return x >= 0 && std::isfinite(x); };
  const auto fraction = [](double x) { return x >= 0 && x < 1; };
  RETURN_IF_ERROR(
      Require(positive(spec.learning_rate), "learning_rate", spec.learning_rate, "> 0"));
  RETURN_IF_ERROR(
      Require(not_negative(spec.max_grad_norm), "max_grad_norm", spec.max_grad_norm, ">= 0"));
  RETURN_IF_ERROR(
      Require(not_negative(spec.weight_decay), "weight_decay", spec.weight_decay, ">= 0"));
  RETURN_IF_ERROR(Require(fraction(spec.adam_beta1), "adam_beta1", spec.adam_beta1, "in [0, 1)"));
  RETURN_IF_ERROR(Require(fraction(spec.adam_beta2), "adam_beta2", spec.adam_beta2, "in [0, 1)"));
  RETURN_IF_ERROR(Require(positive(spec.adam_epsilon), "adam_epsilon", spec.adam_epsilon, "> 0"));
  return ParseOptimizerKind(spec.optim).status();
}

absl::Status CheckLength(const TrainingSpec& spec) {
  constexpr double kMaxEpochs = 10000;
  // Dropout's random numbers count steps in 32 bits.
  RETURN_IF_ERROR(Require(spec.max_steps >= 0 && spec.max_steps <= 0xffffffff, "max_steps",
                          spec.max_steps, "in [0, 4294967295]"));
  if (spec.max_steps == 0)
    RETURN_IF_ERROR(Require(spec.num_train_epochs > 0 && spec.num_train_epochs <= kMaxEpochs,
                            "num_train_epochs", spec.num_train_epochs,
                            "> 0 and at most 10000; use max_steps for longer jobs"));
  RETURN_IF_ERROR(
      Require(spec.micro_batch_size >= 1, "micro_batch_size", spec.micro_batch_size, ">= 1"));
  RETURN_IF_ERROR(Require(spec.gradient_accumulation_steps >= 1, "gradient_accumulation_steps",
                          spec.gradient_accumulation_steps, ">= 1"));
  RETURN_IF_ERROR(Require(spec.max_seq_length >= 2, "max_seq_length", spec.max_seq_length, ">= 2"));
  // Rows of a micro-batch are counted in 32 bits.
  const int64_t rows = int64_t{spec.micro_batch_size} * spec.max_seq_length;
  return Require(rows <= std::numeric_limits<int32_t>::max(),
                 "micro_batch_size times max_seq_length", rows, "at most 2147483647");
}

absl::Status CheckIntervals(const TrainingSpec& spec) {
  RETURN_IF_ERROR(Require(spec.eval_steps >= 0, "eval_steps", spec.eval_steps, ">= 0"));
  RETURN_IF_ERROR(Require(spec.save_steps >= 0, "save_steps", spec.save_steps, ">= 0"));
  RETURN_IF_ERROR(Require(spec.logging_steps >= 1, "logging_steps", spec.logging_steps, ">= 1"));
  RETURN_IF_ERROR(Require(spec.early_stopping_patience >= 0, "early_stopping_patience",
                          spec.early_stopping_patience, ">= 0"));
  if (!spec.eval_path.empty()) return absl::OkStatus();
  constexpr char kNeedsEval[] = "0 without an eval dataset; give one";
  RETURN_IF_ERROR(Require(spec.eval_steps == 0, "eval_steps", spec.eval_steps, kNeedsEval));
  return Require(spec.early_stopping_patience == 0, "early_stopping_patience",
                 spec.early_stopping_patience, kNeedsEval);
}

}  // namespace

absl::Status CheckTrainingSpec(const TrainingSpec& spec) {
  if (spec.train_path.empty()) return absl::InvalidArgumentError("train_path is empty");
  RETURN_IF_ERROR(CheckOptimizer(spec));
  RETURN_IF_ERROR(CheckLength(spec));
  return CheckIntervals(spec);
}

}  // namespace lorad
