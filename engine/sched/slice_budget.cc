#include "engine/sched/slice_budget.h"

#include <algorithm>

#include "engine/core/check.h"

namespace lorad {
namespace {

// A prompt goes on by so many rows where none more are expected to be done in time.
constexpr int64_t kLeastPromptRows = 16;

// So many running requests, or half of the slots if that is more, are not many yet.
constexpr int32_t kFewRequests = 8;
// Of the slack, when all slots are taken.
constexpr double kLeastShareOfSlack = 0.25;

// The slots having run out counts for so long after a request last waited for one.
constexpr absl::Duration kCrowdedFor = absl::Seconds(4);

// When a step's last tokens were delivered.
absl::Time TokensAt(const ServedStep& step) {
  return step.decode_rows + step.prompt_rows > 0 ? step.decoded : step.ended;
}

}  // namespace

SliceBudget::SliceBudget(const SliceBudgetOptions& options) : options_(options) {
  LORAD_CHECK(options.itl_target >= absl::ZeroDuration() && options.patience_steps >= 1);
}

absl::Duration SliceBudget::NextDecode() const {
  absl::Duration next = options_.itl_target / 2;
  if (decode_.known()) next = std::max({decode_.high(), last_decodes_[0], last_decodes_[1]});
  if (!served_ || step_.prompt_rows == 0) return next;
  // Rows that came with prompts have never decoded alone.
  const absl::Duration learned = passes_.Expected(PassTimes::SizeOf(step_.running));
  return learned < absl::InfiniteDuration() ? std::max(next, learned) : next;
}

absl::Duration SliceBudget::Margin() const {
  return options_.itl_target / 50 + absl::Microseconds(100);
}

absl::Duration SliceBudget::Slack() const { return options_.itl_target - NextDecode() - Margin(); }

absl::Duration SliceBudget::prefill_budget() const {
  if (!has_target()) return options_.prefill_without_target;
  return std::max(Slack() - chunk_.high(), absl::ZeroDuration());
}

int64_t SliceBudget::PromptRows(int32_t decode_rows, int64_t most, absl::Time now) const {
  if (decode_rows == 0) {
    const int unknown = passes_.LargestUnknown(kLeastPromptRows, most);
    return unknown < 0 ? most : PassTimes::RowsOf(unknown);
  }
  if (!has_target()) return most;
  const absl::Time due = (served_ ? TokensAt(step_) : now) + options_.itl_target - Margin();
  int size = PassTimes::kNumSizes - 1;
  while (size >= 0 && now + passes_.Expected(size) > due) --size;
  if (held_ >= options_.patience_steps && size + 1 < PassTimes::kNumSizes) ++size;
  const int64_t fit = size < 0 ? 0 : PassTimes::RowsOf(size) - decode_rows;
  const int64_t least = served_ && step_.backlog ? kLeastPromptRows : 0;
  return std::min(std::max(fit, least), most);
}

void SliceBudget::LearnPass(const ServedStep& step) {
  const int64_t rows = int64_t{step.decode_rows} + step.prompt_rows;
  if (rows == 0) return;
  const absl::Duration took = step.decoded - step.began;
  passes_.Observe(rows, took);
  if (step.prompt_rows == 0) {
    last_decodes_[1] = last_decodes_[0];
    last_decodes_[0] = took;
    decode_.Observe(took);
  } else if (step.decode_rows > 0) {
    held_ = held_ < options_.patience_steps ? held_ + 1 : 0;
  }
}

bool SliceBudget::OnServed(const ServedStep& step) {
  const bool late = has_target() && served_ && step.decode_rows > 0 &&
                    step.decoded - TokensAt(step_) > options_.itl_target;
  LearnPass(step);
  if (step.chunks > 0) chunk_.Observe((step.ended - step.decoded) / step.chunks);
  if (step.queue) queued_ = step.ended;
  if (step.queue && step.running >= step.slots) crowded_ = step.slots > 0;
  if (step.running <= std::max(1, step.slots / 4) || step.ended - queued_ > kCrowdedFor)
    crowded_ = false;
  step_ = step;
  served_ = true;
  return late;
}

double SliceBudget::ShareOfSlack() const {
  const int32_t few = std::max(kFewRequests, step_.slots / 2);
  if (step_.running <= few || step_.slots <= few) return 1;
  return 1 - (1 - kLeastShareOfSlack) * (step_.running - few) / (step_.slots - few);
}

TrainingAllowance SliceBudget::allowance() const {
  LORAD_CHECK(served_);
  if (!has_target()) {
    const absl::Duration most = std::min(step_.ended - step_.began, options_.most_without_target);
    return {step_.ended + most, /*at_least_one=*/true};
  }
  const bool starved = starved_ >= options_.patience_steps;
  if (step_.backlog || crowded_) return {absl::InfinitePast(), starved};
  return {TokensAt(step_) + Slack() * ShareOfSlack(), starved};
}

}  // namespace lorad
