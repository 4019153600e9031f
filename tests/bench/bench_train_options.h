// What bench_train is asked to measure.
#ifndef LORAD_TESTS_BENCH_BENCH_TRAIN_OPTIONS_H_
#define LORAD_TESTS_BENCH_BENCH_TRAIN_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lorad::bench {

// One measurement. Each member is the flag of its name.
struct TrainCase {
  std::string shape = "llama-3-8b";    // see ShapeModel
  std::string base = "nf4";            // bf16, or what ParseQuantSpec takes
  int32_t rank = 16;                   // LoraSpec::r
  double alpha = 0;                    // 0: twice the rank
  std::string targets = "all-linear";  // target_modules, separated by commas
  int32_t batch = 4;                   // rows
  int32_t seq = 2048;                  // tokens of a row
  std::string policy = "every_layer";  // TrainingSpec::activation_checkpointing
  std::string optim = "adamw_torch";   // TrainingSpec::optim
  double dropout = 0;
  int64_t steps = 20;        // measured
  int64_t warmup = 5;        // before them
  int64_t memory_limit = 0;  // bytes of the device for all of it; 0: what the device has
  uint64_t seed = 0;         // of weights, adapter, tokens and dropout
};

struct BenchOptions {
  std::string device = "cuda";  // cuda, cuda:N or cpu
  double peak_tflops = 0;       // the bound; 0: 989, or on the CPU what its FMA units reach
  std::string output;           // file to append results to
  std::vector<TrainCase> cases;
};

// Arguments are --name=value. Each --case="name=value name=value ..." is one case that differs from
// the other arguments in these members; without any, the other arguments are the one case.
// kInvalidArgument names the argument and what is known.
absl::StatusOr<BenchOptions> ParseBenchOptions(const std::vector<std::string>& arguments);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_TRAIN_OPTIONS_H_
