#include "tests/bench/load_report.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace lorad::bench {
namespace {

Json RequestsJson(const std::vector<const RequestRecord*>& due) {
  Json json = {{"offered", due.size()}};
  const std::pair<const char*, RequestOutcome> outcomes[] = {
      {"completed", RequestOutcome::kCompleted},
      {"refused", RequestOutcome::kRefused},
      {"failed", RequestOutcome::kFailed},
      {"unfinished", RequestOutcome::kUnfinished}};
  for (const auto& [name, outcome] : outcomes) {
    const auto is = [outcome = outcome](const RequestRecord* r) { return r->outcome == outcome; };
    json[name] = std::count_if(due.begin(), due.end(), is);
    const auto first = std::find_if(due.begin(), due.end(), is);
    if (first != due.end() && !(*first)->status.ok())
      json[std::string("first_") + name] = (*first)->status.ToString();
  }
  return json;
}

struct TokenTimes {
  int64_t tokens = 0;
  std::vector<double> gaps;
};

TokenTimes TokensWithin(const std::vector<RequestRecord>& records, double begin, double end) {
  TokenTimes times;
  for (const RequestRecord& record : records) {
    for (size_t i = 0; i < record.tokens.size(); ++i) {
      if (record.tokens[i] < begin || record.tokens[i] >= end) continue;
      ++times.tokens;
      if (i > 0) times.gaps.push_back(record.tokens[i] - record.tokens[i - 1]);
    }
  }
  return times;
}

Json ShareWithin(const std::vector<double>& gaps, double target_ms) {
  if (target_ms == 0 || gaps.empty()) return nullptr;
  const auto within = std::count_if(gaps.begin(), gaps.end(),
                                    [target_ms](double gap) { return 1e3 * gap <= target_ms; });
  return static_cast<double>(within) / static_cast<double>(gaps.size());
}

}  // namespace

Json TimesJson(const std::vector<double>& seconds) {
  if (seconds.empty()) return nullptr;
  const double sum = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  return {{"count", seconds.size()},
          {"mean", 1e3 * sum / static_cast<double>(seconds.size())},
          {"p50", 1e3 * Percentile(seconds, 0.5)},
          {"p90", 1e3 * Percentile(seconds, 0.9)},
          {"p99", 1e3 * Percentile(seconds, 0.99)},
          {"max", 1e3 * Percentile(seconds, 1)}};
}

Json WindowJson(const std::vector<RequestRecord>& records, double begin, double end,
                double itl_target_ms) {
  std::vector<const RequestRecord*> due;
  std::vector<double> first_tokens, ends;
  int64_t completed_tokens = 0;
  for (const RequestRecord& record : records) {
    const double at = record.request.at;
    if (at < begin || at >= end) continue;
    due.push_back(&record);
    if (!record.tokens.empty()) first_tokens.push_back(record.tokens.front() - at);
    if (record.outcome != RequestOutcome::kCompleted) continue;
    ends.push_back(record.end - at);
    completed_tokens += static_cast<int64_t>(record.tokens.size());
  }
  const TokenTimes times = TokensWithin(records, begin, end);
  return {{"seconds", end - begin},
          {"requests", RequestsJson(due)},
          {"completed_tokens", completed_tokens},
          {"tokens", times.tokens},
          {"tokens_per_s", static_cast<double>(times.tokens) / (end - begin)},
          {"ttft_ms", TimesJson(first_tokens)},
          {"itl_ms", TimesJson(times.gaps)},
          {"e2e_ms", TimesJson(ends)},
          {"within_itl_target", ShareWithin(times.gaps, itl_target_ms)}};
}

Json PlanJson(const LoadOptions& options) {
  Json json;
  if (options.streams > 0)
    json["streams"] = options.streams;
  else
    json["rate"] = options.rate;
  json["duration"] = options.duration;
  json["warmup"] = options.warmup;
  json["prompt_tokens"] = options.prompt_tokens;
  json["output_tokens"] = options.output_tokens;
  json["choice"] = options.choice;
  json["itl_target_ms"] = options.itl_target_ms;
  return json;
}

Json LoadJson(const LoadPlan& plan, const std::vector<RequestRecord>& records) {
  Json json = WindowJson(records, plan.warmup, plan.seconds(), plan.itl_target_ms);
  if (plan.phases.size() < 2) return json;
  Json phases = Json::array();
  double begin = 0;
  for (const RatePhase& phase : plan.phases) {
    Json one = {{"rate", phase.rate}};
    one.update(WindowJson(records, begin, begin + phase.seconds, plan.itl_target_ms));
    phases.push_back(std::move(one));
    begin += phase.seconds;
  }
  json["phases"] = std::move(phases);
  return json;
}

}  // namespace lorad::bench
