#include "tests/bench/training_progress.h"

#include <algorithm>

namespace lorad::bench {
namespace {

constexpr double kRecovered = 0.95;  // of the free rate
constexpr auto kRecoveryWindow = std::chrono::seconds(1);
constexpr auto kRecoveryStep = std::chrono::milliseconds(10);

Clock::duration Duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// The phase whose rate the last one goes back to; none unless requests become fewer at its start.
std::optional<size_t> PhaseToGoBackTo(const std::vector<RatePhase>& phases) {
  if (phases.size() < 3 || phases.back().rate >= phases[phases.size() - 2].rate)
    return std::nullopt;
  for (size_t i = 0; i + 2 < phases.size(); ++i)
    if (phases[i].rate == phases.back().rate) return i;
  return std::nullopt;
}

}  // namespace

double TrainingProgress::TokensAt(Clock::time_point at) const {
  const auto after = std::upper_bound(marks_.begin(), marks_.end(), at,
                                      [](Clock::time_point t, const Mark& m) { return t < m.at; });
  if (after == marks_.begin()) return marks_.empty() ? 0 : static_cast<double>(after->tokens);
  const Mark& before = *std::prev(after);
  if (after == marks_.end()) return static_cast<double>(before.tokens);
  const double part = std::chrono::duration<double>(at - before.at) /
                      std::chrono::duration<double>(after->at - before.at);
  return static_cast<double>(before.tokens) +
         part * static_cast<double>(after->tokens - before.tokens);
}

double TrainingProgress::Rate(Clock::time_point begin, Clock::time_point end) const {
  return (TokensAt(end) - TokensAt(begin)) / std::chrono::duration<double>(end - begin).count();
}

std::optional<Clock::time_point> TrainingProgress::FirstAt(double rate, Clock::duration window,
                                                           Clock::time_point from,
                                                           Clock::time_point last) const {
  for (Clock::time_point at = from; at + window <= last; at += kRecoveryStep)
    if (Rate(at, at + window) >= rate) return at;
  return std::nullopt;
}

Json TrainingJson(double solo, const TrainingProgress& progress, const LoadPlan& plan,
                  Clock::time_point began) {
  const auto at = [began](double seconds) { return began + Duration(seconds); };
  const double rate = progress.Rate(at(plan.warmup), at(plan.seconds()));
  Json json = {{"solo_tokens_per_s", solo}, {"tokens_per_s", rate}, {"share_of_solo", rate / solo}};
  if (plan.phases.size() < 2) return json;
  std::vector<double> begins = {0}, rates;
  for (const RatePhase& phase : plan.phases) {
    const double end = begins.back() + phase.seconds;
    rates.push_back(progress.Rate(at(begins.back()), at(end)));
    begins.push_back(end);
  }
  json["phases"] = rates;
  const std::optional<size_t> like = PhaseToGoBackTo(plan.phases);
  if (!like.has_value()) return json;
  const Clock::time_point drop = at(begins[plan.phases.size() - 1]);
  const std::optional<Clock::time_point> back =
      progress.FirstAt(kRecovered * rates[*like], kRecoveryWindow, drop, at(plan.seconds()));
  json["recovery_s"] =
      back.has_value() ? Json(std::chrono::duration<double>(*back - drop).count()) : Json(nullptr);
  return json;
}

}  // namespace lorad::bench
