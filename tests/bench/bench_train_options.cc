#include "tests/bench/bench_train_options.h"

#include "absl/status/status.h"
#include "engine/core/status_macros.h"
#include "tests/bench/case_flags.h"

namespace lorad::bench {
namespace {

FlagSet<BenchOptions> OptionFlags() {
  FlagSet<BenchOptions> flags;
  flags.Add("device", &BenchOptions::device)
      .Add("peak_tflops", &BenchOptions::peak_tflops)
      .Add("output", &BenchOptions::output);
  return flags;
}

FlagSet<TrainCase> CaseFlags() {
  FlagSet<TrainCase> flags;
  flags.Add("shape", &TrainCase::shape)
      .Add("base", &TrainCase::base)
      .Add("rank", &TrainCase::rank)
      .Add("alpha", &TrainCase::alpha)
      .Add("targets", &TrainCase::targets)
      .Add("batch", &TrainCase::batch)
      .Add("seq", &TrainCase::seq)
      .Add("policy", &TrainCase::policy)
      .Add("optim", &TrainCase::optim)
      .Add("dropout", &TrainCase::dropout)
      .Add("steps", &TrainCase::steps)
      .Add("warmup", &TrainCase::warmup)
      .Add("memory_limit", &TrainCase::memory_limit)
      .Add("seed", &TrainCase::seed);
  return flags;
}

absl::Status Check(const TrainCase& of) {
  if (of.rank < 1 || of.batch < 1 || of.seq < 2 || of.steps < 1 || of.warmup < 0 ||
      of.memory_limit < 0)
    return absl::InvalidArgumentError(
        "rank, batch and steps must be at least 1, seq at least 2, warmup and memory_limit not "
        "negative");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BenchOptions> ParseBenchOptions(const std::vector<std::string>& arguments) {
  BenchOptions options;
  RETURN_IF_ERROR(ParseArguments(arguments, OptionFlags(), CaseFlags(), options, options.cases));
  if (options.peak_tflops < 0)
    return absl::InvalidArgumentError("--peak_tflops must be a number from 0");
  for (TrainCase& one : options.cases) {
    RETURN_IF_ERROR(Check(one));
    if (one.alpha == 0) one.alpha = 2.0 * one.rank;
  }
  return options;
}

}  // namespace lorad::bench
