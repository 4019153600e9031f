// A load of generation requests, as benchmarks of the engine and of the daemon are asked for it.
#ifndef LORAD_TESTS_BENCH_LOAD_OPTIONS_H_
#define LORAD_TESTS_BENCH_LOAD_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/bench/case_flags.h"

namespace lorad::bench {

// Each member is the flag of its name.
struct LoadOptions {
  // Requests a second, Poisson arrivals that do not wait for answers; or a schedule such as
  // 1:5s,20:10s,1:10s. Not with `streams`.
  std::string rate = "4";
  double duration = 30;  // seconds of arrivals, when `rate` is one number or `streams` are given
  int64_t streams = 0;   // > 0: so many requests at all times, the next when one ends
  double warmup = 0;     // seconds at the start that do not count
  std::string prompt_tokens = "256";  // of each, N or MIN-MAX (uniform); random ids
  std::string output_tokens = "256";  // likewise; an end of sequence does not end an answer
  std::string choice = "uniform";     // of the adapter: uniform, or zipf:S with weights 1 / k^S
  double itl_target_ms = 0;           // what a token may take after the one before it; 0: none
  double drain_timeout = 120;         // seconds after the last arrival until what runs is cancelled
};

template <typename T>
void AddLoadFlags(FlagSet<T>& flags) {
  flags.Add("rate", &LoadOptions::rate)
      .Add("duration", &LoadOptions::duration)
      .Add("streams", &LoadOptions::streams)
      .Add("warmup", &LoadOptions::warmup)
      .Add("prompt_tokens", &LoadOptions::prompt_tokens)
      .Add("output_tokens", &LoadOptions::output_tokens)
      .Add("choice", &LoadOptions::choice)
      .Add("itl_target_ms", &LoadOptions::itl_target_ms)
      .Add("drain_timeout", &LoadOptions::drain_timeout);
}

struct RatePhase {
  double rate = 0;  // requests a second; 0 with streams
  double seconds = 0;
};

struct TokenRange {
  int64_t min = 0, max = 0;
};

// LoadOptions, understood and checked.
struct LoadPlan {
  std::vector<RatePhase> phases;
  int64_t streams = 0;
  double warmup = 0;
  TokenRange prompt, output;
  int64_t adapters = 0;  // to choose from; 0: base alone
  double zipf = 0;       // 0: uniform
  double itl_target_ms = 0;
  double drain_timeout = 0;
  uint64_t seed = 0;

  double seconds() const;  // of all phases
};

// kInvalidArgument names the option, its value and what it may be.
absl::StatusOr<LoadPlan> MakeLoadPlan(const LoadOptions& options, int64_t adapters, uint64_t seed);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_LOAD_OPTIONS_H_
