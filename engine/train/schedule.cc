#include "engine/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace lorad {

absl::StatusOr<LearningRateSchedule> LearningRateSchedule::Create(const std::string& type,
                                                                  double learning_rate,
                                                                  int64_t warmup_steps,
                                                                  double warmup_ratio,
                                                                  int64_t num_steps) {
  constexpr std::pair<const char*, Type> kTypes[] = {
      {"constant", Type::kConstant},
      {"constant_with_warmup", Type::kConstantWithWarmup},
      {"linear", Type::kLinear},
      {"cosine", Type::kCosine}};
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const auto& known) { return known.first == type; });
  if (found == std::end(kTypes))
    return absl::InvalidArgumentError(
        absl::StrCat("lr_scheduler_type is \"", type,
                     "\"; known are constant, constant_with_warmup, linear, cosine"));
  if (warmup_steps < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("warmup_steps is ", warmup_steps, "; it must be >= 0"));
  if (!(warmup_ratio >= 0 && warmup_ratio <= 1))
    return absl::InvalidArgumentError(
        absl::StrCat("warmup_ratio is ", warmup_ratio, "; it must be in [0, 1]"));
  if (found->second == Type::kConstant && (warmup_steps > 0 || warmup_ratio > 0))
    return absl::InvalidArgumentError(
        absl::StrCat("lr_scheduler_type constant has no warm-up, but ",
                     warmup_steps > 0 ? absl::StrCat("warmup_steps is ", warmup_steps)
                                      : absl::StrCat("warmup_ratio is ", warmup_ratio),
                     "; use constant_with_warmup"));
  if (warmup_steps == 0)
    warmup_steps = static_cast<int64_t>(std::ceil(warmup_ratio * static_cast<double>(num_steps)));
  return LearningRateSchedule(found->second, learning_rate, warmup_steps, num_steps);
}

double LearningRateSchedule::Rate(int64_t steps_done) const {
  const double s = static_cast<double>(steps_done), w = static_cast<double>(warmup_steps_),
               n = static_cast<double>(num_steps_);
  if (type_ == Type::kConstant) return rate_;
  if (steps_done < warmup_steps_) return rate_ * (s / std::max(1.0, w));
  switch (type_) {
    case Type::kLinear:
      return rate_ * std::max(0.0, (n - s) / std::max(1.0, n - w));
    case Type::kCosine: {
      const double progress = (s - w) / std::max(1.0, n - w);
      return rate_ * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
    }
    default:
      return rate_;
  }
}

}  // namespace lorad
