#include "tests/bench/load_requests.h"

#include <algorithm>
#include <cmath>

namespace lorad::bench {

std::vector<int32_t> PromptIds(const PlannedRequest& request, int64_t vocab_size) {
  std::mt19937_64 random(request.prompt_seed);
  std::vector<int32_t> ids(request.prompt_tokens);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab_size));
  return ids;
}

RequestSource::RequestSource(const LoadPlan& plan) : plan_(plan), random_(plan.seed) {
  if (plan.zipf == 0) return;
  double sum = 0;
  for (int64_t k = 0; k < plan.adapters; ++k)
    cumulative_.push_back(sum += std::pow(static_cast<double>(k + 1), -plan.zipf));
  for (double& value : cumulative_) value /= sum;
}

// By hand: the library's distributions are not the same everywhere.
double RequestSource::Uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

int64_t RequestSource::Tokens(const TokenRange& range) {
  const auto count = static_cast<double>(range.max - range.min + 1);
  return range.min + static_cast<int64_t>(Uniform() * count);
}

int64_t RequestSource::ChooseAdapter() {
  if (plan_.adapters == 0) return -1;
  const double draw = Uniform();
  if (cumulative_.empty()) return static_cast<int64_t>(draw * static_cast<double>(plan_.adapters));
  const auto found = std::upper_bound(cumulative_.begin(), cumulative_.end(), draw);
  return std::min<int64_t>(found - cumulative_.begin(), plan_.adapters - 1);
}

// Exponential gaps have no memory: at the end of a phase the next one's begin anew.
std::optional<double> RequestSource::NextArrival() {
  while (phase_ < plan_.phases.size()) {
    const RatePhase& phase = plan_.phases[phase_];
    const double end = phase_begin_ + phase.seconds;
    if (phase.rate > 0) now_ -= std::log(1 - Uniform()) / phase.rate;
    if (phase.rate > 0 && now_ < end) return now_;
    phase_begin_ = now_ = end;
    ++phase_;
  }
  return std::nullopt;
}

std::optional<PlannedRequest> RequestSource::Next() {
  PlannedRequest request;
  if (plan_.streams == 0) {
    const std::optional<double> at = NextArrival();
    if (!at.has_value()) return std::nullopt;
    request.at = *at;
  }
  request.adapter = ChooseAdapter();
  request.prompt_tokens = Tokens(plan_.prompt);
  request.output_tokens = Tokens(plan_.output);
  request.prompt_seed = random_();
  return request;
}

}  // namespace lorad::bench
