#include "tests/bench/load_options.h"

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/core/status_macros.h"

namespace lorad::bench {
namespace {

absl::Status Refused(const char* name, const std::string& value, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("--", name, "=", value, ": it must be ", what));
}

bool Positive(double value) { return std::isfinite(value) && value > 0; }

absl::StatusOr<std::vector<RatePhase>> ParseRate(const std::string& text, double duration) {
  constexpr char kForm[] = "requests a second (> 0), or RATE:SECONDSs,... with rates from 0";
  std::vector<RatePhase> phases;
  RatePhase one;
  if (absl::SimpleAtod(text, &one.rate)) {
    if (!Positive(one.rate)) return Refused("rate", text, kForm);
    one.seconds = duration;
    phases.push_back(one);
    return phases;
  }
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> halves = absl::StrSplit(part, ':');
    if (halves.size() != 2) return Refused("rate", text, kForm);
    if (!absl::SimpleAtod(halves[0], &one.rate) || !(one.rate >= 0 && std::isfinite(one.rate)) ||
        !absl::SimpleAtod(absl::StripSuffix(halves[1], "s"), &one.seconds) ||
        !Positive(one.seconds))
      return Refused("rate", text, kForm);
    phases.push_back(one);
  }
  return phases;
}

absl::StatusOr<TokenRange> ParseRange(const char* name, const std::string& text) {
  const std::vector<absl::string_view> ends = absl::StrSplit(text, absl::MaxSplits('-', 1));
  TokenRange range;
  if (!absl::SimpleAtoi(ends.front(), &range.min) || !absl::SimpleAtoi(ends.back(), &range.max) ||
      range.min < 1 || range.max < range.min)
    return Refused(name, text, "a number of tokens from 1, or MIN-MAX");
  return range;
}

absl::StatusOr<double> ParseChoice(const std::string& text) {
  if (text == "uniform") return 0;
  absl::string_view rest = text;
  double exponent = 0;
  if (absl::ConsumePrefix(&rest, "zipf:") && absl::SimpleAtod(rest, &exponent) &&
      Positive(exponent))
    return exponent;
  return Refused("choice", text, "uniform, or zipf:S with S > 0");
}

}  // namespace

double LoadPlan::seconds() const {
  double sum = 0;
  for (const RatePhase& phase : phases) sum += phase.seconds;
  return sum;
}

absl::StatusOr<LoadPlan> MakeLoadPlan(const LoadOptions& options, int64_t adapters, uint64_t seed) {
  if (!Positive(options.duration))
    return Refused("duration", absl::StrCat(options.duration), "> 0 seconds");
  if (options.streams < 0) return Refused("streams", absl::StrCat(options.streams), ">= 0");
  if (!(options.itl_target_ms >= 0))
    return Refused("itl_target_ms", absl::StrCat(options.itl_target_ms), ">= 0 (0: none)");
  if (!(options.drain_timeout >= 0))
    return Refused("drain_timeout", absl::StrCat(options.drain_timeout), ">= 0 seconds");
  LoadPlan plan;
  plan.streams = options.streams;
  if (options.streams > 0) {
    plan.phases.push_back({0, options.duration});
  } else {
    ASSIGN_OR_RETURN(plan.phases, ParseRate(options.rate, options.duration));
  }
  plan.warmup = options.warmup;
  if (!(plan.warmup >= 0 && plan.warmup < plan.seconds()))
    return Refused("warmup", absl::StrCat(options.warmup),
                   "seconds from 0, less than all arrivals take");
  ASSIGN_OR_RETURN(plan.prompt, ParseRange("prompt_tokens", options.prompt_tokens));
  ASSIGN_OR_RETURN(plan.output, ParseRange("output_tokens", options.output_tokens));
  ASSIGN_OR_RETURN(plan.zipf, ParseChoice(options.choice));
  plan.adapters = adapters;
  plan.itl_target_ms = options.itl_target_ms;
  plan.drain_timeout = options.drain_timeout;
  plan.seed = seed;
  return plan;
}

}  // namespace lorad::bench
