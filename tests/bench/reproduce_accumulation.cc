// Gradient accumulation against the large batch: jobs over the same samples whose steps of eight
// are cut into micro-batches of 8, 4, 2 and 1, and how far their losses and adapters come apart,
// as a table in Markdown. The mean over all tokens of a step is the same sum in another order, so
// only rounding may differ.
//   reproduce_accumulation [--model=DIR] [--train=FILE.jsonl] [--quant=SPEC] [--steps=N,...]
//       [--dropout=P]
// Exit status 1 when a first step is further from the uncut one than rounding explains (kMaxLoss,
// kMaxUpdate below), or when a job over other samples is not further away than all of them.
// results/reproduce_accumulation.md is what it showed.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "engine/lora/peft.h"
#include "engine/model/config.h"
#include "engine/train/lora_init.h"
#include "tests/bench/base_model_loss.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/case_flags.h"
#include "tests/bench/scratch_dir.h"

namespace lorad::bench {
namespace {

constexpr int32_t kSamplesPerStep = 8;
constexpr int32_t kCuts[] = {8, 4, 2, 1};  // samples of a micro-batch; the first is the reference
// The loss is a sum of some 300 fp32 numbers, in another order. Adam's first update is the sign of
// the gradient, but for elements that are as small as epsilon or as the rounding of the gradient's
// own sum: a few in a million may turn.
constexpr double kMaxLoss = 1e-6;
constexpr double kMaxUpdate = 1e-3;

struct Options {
  std::string model = LORAD_SOURCE_DIR "/deploy/demo/base";
  std::string train = LORAD_SOURCE_DIR "/deploy/demo/data/sql_train.jsonl";
  std::string quant = "nf4";
  std::vector<int64_t> steps = {1, 5, 20};
  double dropout = 0.1;
};

absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& words) {
  struct NoCase {};
  FlagSet<Options> flags;
  flags.Add("model", &Options::model)
      .Add("train", &Options::train)
      .Add("quant", &Options::quant)
      .Add("steps", &Options::steps)
      .Add("dropout", &Options::dropout);
  Options options;
  std::vector<NoCase> no_cases;
  RETURN_IF_ERROR(ParseArguments(words, flags, FlagSet<NoCase>(), options, no_cases));
  for (const int64_t steps : options.steps) {
    if (steps < 1) {
      return absl::InvalidArgumentError(absl::StrCat("--steps: ", steps, " is below 1"));
    }
  }
  return options;
}

std::vector<float> Values(const HostAdapter& adapter) {
  std::vector<float> values;
  for (const AdapterModule& module : adapter.modules) {
    values.insert(values.end(), module.a.begin(), module.a.end());
    values.insert(values.end(), module.b.begin(), module.b.end());
  }
  return values;
}

// What a job did to its adapter, and its reports.
struct Outcome {
  std::vector<StepReport> steps;
  std::vector<float> update;  // last values less the first
};

// How far an outcome is from another.
struct Distance {
  double first_loss = 0, first_norm = 0;  // of the first step, relative
  double loss = 0;                        // the most of all steps, relative
  double update = 0;                      // L2 of the difference over that of the update
  double largest = 0;                     // of any value
};

Distance Between(const Outcome& outcome, const Outcome& reference) {
  Distance distance;
  for (size_t i = 0; i < reference.steps.size(); ++i) {
    const double loss = reference.steps[i].loss;
    const double difference = std::abs(outcome.steps[i].loss - loss) / loss;
    if (i == 0) distance.first_loss = difference;
    distance.loss = std::max(distance.loss, difference);
  }
  const double norm = reference.steps[0].grad_norm;
  distance.first_norm = std::abs(outcome.steps[0].grad_norm - norm) / norm;
  double squares = 0, difference_squares = 0;
  for (size_t i = 0; i < reference.update.size(); ++i) {
    const double difference = double{outcome.update[i]} - reference.update[i];
    squares += double{reference.update[i]} * reference.update[i];
    difference_squares += difference * difference;
    distance.largest = std::max(distance.largest, std::abs(difference));
  }
  distance.update = std::sqrt(difference_squares / squares);
  return distance;
}

class Reproduction {
 public:
  Reproduction(Options options, std::string command)
      : options_(std::move(options)), command_(std::move(command)) {}

  absl::StatusOr<bool> Run() {
    ASSIGN_OR_RETURN(config_, LoadModelConfig(options_.model));
    ASSIGN_OR_RETURN(engine_, OpenBaseModel(options_.model, options_.quant));
    std::printf("    %s\n\n", command_.c_str());
    std::printf(
        "| dropout | steps | micro-batches x samples | loss, step 1 | gradient norm, step 1 | "
        "loss, "
        "all steps | update | largest difference |\n|---|---|---|---|---|---|---|---|\n");
    bool all = true;
    for (const double dropout : {0.0, options_.dropout}) {
      for (const int64_t steps : options_.steps) {
        ASSIGN_OR_RETURN(const bool agree, Compare(dropout, steps));
        all = all && agree;
      }
    }
    engine_->Shutdown(absl::Now());
    return all;
  }

 private:
  TrainingSpec Spec(int32_t cut, double dropout, int64_t steps) const {
    TrainingSpec spec;
    spec.lora.r = 16;
    spec.lora.lora_alpha = 32;
    spec.lora.lora_dropout = dropout;
    spec.train_path = options_.train;
    spec.packing = false;
    spec.learning_rate = 1e-3;
    spec.lr_scheduler_type = "constant";
    spec.max_steps = steps;
    spec.save_steps = steps;
    spec.micro_batch_size = cut;
    spec.gradient_accumulation_steps = kSamplesPerStep / cut;
    return spec;
  }

  absl::StatusOr<Outcome> Train(TrainingSpec spec) {
    const ScratchDir scratch;
    spec.output_dir = scratch.File("out");
    ASSIGN_OR_RETURN(FineTuned job, FineTune(*engine_, spec));
    ASSIGN_OR_RETURN(const HostAdapter before, InitialAdapter(spec.lora, config_, spec.seed));
    ASSIGN_OR_RETURN(const HostAdapter after, ReadPeftAdapter(spec.output_dir, config_));
    const std::vector<float> first = Values(before);
    Outcome outcome{.steps = std::move(job.steps), .update = Values(after)};
    for (size_t i = 0; i < first.size(); ++i) outcome.update[i] -= first[i];
    return outcome;
  }

  void Print(const std::string& name, double dropout, int64_t steps, const Distance& d) const {
    std::printf("| %g | %ld | %s | %.1e | %.1e | %.1e | %.1e | %.1e |\n", dropout,
                static_cast<long>(steps), name.c_str(), d.first_loss, d.first_norm, d.loss,
                d.update, d.largest);
    std::fflush(stdout);
  }

  // The jobs of one dropout and length; whether they agree as far as rounding lets them.
  absl::StatusOr<bool> Compare(double dropout, int64_t steps) {
    ASSIGN_OR_RETURN(const Outcome reference, Train(Spec(kCuts[0], dropout, steps)));
    bool agree = true;
    double furthest = 0;
    for (const int32_t cut : kCuts) {
      ASSIGN_OR_RETURN(const Outcome outcome, Train(Spec(cut, dropout, steps)));
      const Distance distance = Between(outcome, reference);
      Print(absl::StrCat(kSamplesPerStep / cut, " x ", cut), dropout, steps, distance);
      furthest = std::max(furthest, distance.update);
      agree = agree && distance.first_loss <= kMaxLoss;
      if (steps == 1) agree = agree && distance.update <= kMaxUpdate;
    }
    TrainingSpec other = Spec(kCuts[0], dropout, steps);
    other.shuffle = false;
    ASSIGN_OR_RETURN(const Outcome outcome, Train(other));
    const Distance distance = Between(outcome, reference);
    Print("1 x 8, other samples", dropout, steps, distance);
    return agree && distance.update > 10 * furthest;
  }

  const Options options_;
  const std::string command_;
  ModelConfig config_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  return lorad::bench::BenchMain<lorad::bench::Reproduction>(argc, argv,
                                                             lorad::bench::ParseOptions);
}
