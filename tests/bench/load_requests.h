#ifndef LORAD_TESTS_BENCH_LOAD_REQUESTS_H_
#define LORAD_TESTS_BENCH_LOAD_REQUESTS_H_

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "tests/bench/load_options.h"

namespace lorad::bench {

struct PlannedRequest {
  double at = 0;         // seconds since the load began; with streams, when it was sent
  int64_t adapter = -1;  // -1: the base model
  int64_t prompt_tokens = 0, output_tokens = 0;
  uint64_t prompt_seed = 0;  // another for each, so that no two prompts share a prefix
};

// The ids of its prompt, each in [0, vocab_size).
std::vector<int32_t> PromptIds(const PlannedRequest& request, int64_t vocab_size);

// Draws the requests of a plan, the same for the same plan. Without streams, arrivals are Poisson
// at each phase's rate. Adapter k of a Zipf choice has weight 1 / (k + 1)^S. Thread-compatible.
class RequestSource {
 public:
  explicit RequestSource(const LoadPlan& plan);

  // The next arrival; none after the last phase. With streams never none, and `at` is 0.
  std::optional<PlannedRequest> Next();

 private:
  double Uniform();  // [0, 1)
  int64_t Tokens(const TokenRange& range);
  int64_t ChooseAdapter();
  std::optional<double> NextArrival();

  const LoadPlan plan_;
  std::mt19937_64 random_;
  std::vector<double> cumulative_;  // weights of adapters 0..k, normalised; empty: uniform
  size_t phase_ = 0;
  double phase_begin_ = 0, now_ = 0;
};

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_LOAD_REQUESTS_H_
