#include "engine/sched/slice_budget.h"

#include <algorithm>

#include "engine/core/check.h"

namespace lorad {
namespace {

// When a step's last tokens were delivered.
absl::Time TokensAt(const ServedStep& step) {
  return step.decode_rows > 0 ? step.decoded : step.ended;
}

}  // namespace

SliceBudget::SliceBudget(const SliceBudgetOptions& options) : options_(options) {
  LORAD_CHECK(options.itl_target >= absl::ZeroDuration() && options.patience_steps >= 1);
}

absl::Duration SliceBudget::NextDecode() const {
  if (!decode_.known()) return options_.itl_target / 2;
  return std::max({decode_.high(), last_decodes_[0], last_decodes_[1]});
}

absl::Duration SliceBudget::Slack() const {
  // For what no measurement sees: waking up, admitting, a slice that is a little late.
  const absl::Duration margin = options_.itl_target / 50 + absl::Microseconds(100);
  return options_.itl_target - NextDecode() - margin;
}

absl::Duration SliceBudget::prefill_budget() const {
  if (!has_target()) return options_.prefill_without_target;
  return std::max(Slack() - chunk_.high(), absl::ZeroDuration());
}

bool SliceBudget::OnServed(const ServedStep& step) {
  const bool late = has_target() && served_ && step.decode_rows > 0 &&
                    step.decoded - TokensAt(step_) > options_.itl_target;
  if (step.decode_rows > 0) {
    last_decodes_[1] = last_decodes_[0];
    last_decodes_[0] = step.decoded - step.began;
    decode_.Observe(last_decodes_[0]);
  }
  if (step.chunks > 0) chunk_.Observe((step.ended - step.decoded) / step.chunks);
  step_ = step;
  served_ = true;
  return late;
}

TrainingAllowance SliceBudget::allowance() const {
  LORAD_CHECK(served_);
  if (!has_target()) {
    const absl::Duration most = std::min(step_.ended - step_.began, options_.most_without_target);
    return {step_.ended + most, /*at_least_one=*/true};
  }
  const bool starved = starved_ >= options_.patience_steps;
  if (step_.backlog) return {absl::InfinitePast(), starved};
  return {TokensAt(step_) + Slack(), starved};
}

}  // namespace lorad
