// Errors and losses of the k-bit formats, as tables in Markdown: what "QLoRA" (Dettmers et al.,
// 2023, arXiv 2305.14314) and "The case for 4-bit precision" (Dettmers and Zettlemoyer, 2023, arXiv
// 2212.09720) say of data types, block sizes and double quantisation, measured here.
//   reproduce_quantization [--model=DIR] [--data=FILE.jsonl,...] [--max_samples=N]
//       [--weights=N] [--seed=N] [--train=FILE.jsonl --eval=FILE.jsonl --train_steps=N
//       --train_seeds=N,...]
// Without --train nothing is fine-tuned. results/reproduce_quantization.md is what it showed.
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
#include "engine/quant/quant.h"
#include "tests/bench/base_model_loss.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/case_flags.h"
#include "tests/bench/quantization_error.h"
#include "tests/bench/scratch_dir.h"

namespace lorad::bench {
namespace {

struct Options {
  std::string model = LORAD_SOURCE_DIR "/deploy/demo/base";
  std::vector<std::string> data = {LORAD_SOURCE_DIR "/deploy/demo/data/sql_eval.jsonl",
                                   LORAD_SOURCE_DIR "/deploy/demo/data/tickets_eval.jsonl"};
  int64_t max_samples = 0;  // of each file; 0: all
  int64_t weights = 1 << 22;
  uint64_t seed = 1;
  std::string train, eval;
  int64_t train_steps = 200;
  std::vector<uint64_t> train_seeds = {0, 1, 2};  // of the order and of the adapter's start
};

constexpr const char* kFormats[] = {"nf4,double_quant=false", "nf4", "fp4,double_quant=false",
                                    "int4,double_quant=false", "int8,double_quant=false"};
constexpr const char* kReference = "none";
constexpr int kBlocks[] = {32, 64, 128, 256, 512, 1024, 2048, 4096};  // all that there are
constexpr int64_t kOneOutlierIn = 1000;
constexpr float kOutlierFactor = 20;

absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& words) {
  struct NoCase {};
  FlagSet<Options> flags;
  flags.Add("model", &Options::model)
      .Add("data", &Options::data)
      .Add("max_samples", &Options::max_samples)
      .Add("weights", &Options::weights)
      .Add("seed", &Options::seed)
      .Add("train", &Options::train)
      .Add("eval", &Options::eval)
      .Add("train_steps", &Options::train_steps)
      .Add("train_seeds", &Options::train_seeds);
  Options options;
  std::vector<NoCase> no_cases;
  RETURN_IF_ERROR(ParseArguments(words, flags, FlagSet<NoCase>(), options, no_cases));
  if (options.weights < 1 || options.weights > int64_t{1} << 30) {
    return absl::InvalidArgumentError(
        absl::StrCat("--weights=", options.weights, ": it must be in [1, 2^30]"));
  }
  if (options.train.empty() != options.eval.empty()) {
    return absl::InvalidArgumentError("--train and --eval: give both or neither");
  }
  return options;
}

std::string LastPart(const std::string& path) { return path.substr(path.rfind('/') + 1); }

absl::StatusOr<QuantizationError> ErrorOfAll(const std::string& format,
                                             const std::vector<std::vector<float>>& matrices) {
  ASSIGN_OR_RETURN(const QuantSpec spec, ParseQuantSpec(format));
  QuantizationError all;
  for (const auto& matrix : matrices) {
    ASSIGN_OR_RETURN(const QuantizationError error, MeasureQuantizationError(spec, matrix));
    all.Add(error);
  }
  return all;
}

absl::Status PrintErrors(const std::string& title,
                         const std::vector<std::vector<float>>& matrices) {
  std::printf("\n%s\n\n", title.c_str());
  std::printf("| format | bits a weight | RMS error | largest error |\n|---|---|---|---|\n");
  for (const char* format : kFormats) {
    ASSIGN_OR_RETURN(const QuantizationError error, ErrorOfAll(format, matrices));
    std::printf("| %s | %.3f | %.5f | %.4f |\n", format, error.BitsPerWeight(), error.RelativeRms(),
                error.largest);
  }
  return absl::OkStatus();
}

// The FP4 of QLoRA's table 2 as sign, exponent and mantissa define them, scaled to 1: not the
// engine's, which is that of bitsandbytes.
void PrintOtherTypes(const std::vector<float>& weights) {
  const std::vector<std::pair<const char*, std::vector<float>>> types = {
      {"E2M1", {0, 1 / 12.f, 1 / 6.f, 1 / 4.f, 1 / 3.f, 1 / 2.f, 2 / 3.f, 1}},
      {"E3M0", {0, 1 / 64.f, 1 / 32.f, 1 / 16.f, 1 / 8.f, 1 / 4.f, 1 / 2.f, 1}}};
  std::printf("\nTypes that the engine does not have, on the normal weights, blocks of 64\n\n");
  std::printf("| type | RMS error | largest error |\n|---|---|---|\n");
  for (const auto& [name, magnitudes] : types) {
    const QuantizationError error = MeasureTypeError(magnitudes, 64, weights);
    std::printf("| %s | %.5f | %.4f |\n", name, error.RelativeRms(), error.largest);
  }
}

// Errors in units of the RMS of the weights before there were outliers.
absl::Status PrintBlocks(const std::vector<float>& plain, const std::vector<float>& outliers) {
  std::printf("\n| block | bits, nf4 | nf4 | nf4, outliers | int8 | int8, outliers |\n");
  std::printf("|---|---|---|---|---|---|\n");
  for (const int block : kBlocks) {
    std::string line;
    double bits = 0;
    for (const char* format : {"nf4", "int8"}) {
      const std::string spec = absl::StrCat(format, ",block=", block, ",double_quant=false");
      ASSIGN_OR_RETURN(const QuantizationError without, ErrorOfAll(spec, {plain}));
      ASSIGN_OR_RETURN(QuantizationError with, ErrorOfAll(spec, {outliers}));
      with.sum_squares = without.sum_squares;
      if (bits == 0) bits = without.BitsPerWeight();
      absl::StrAppend(&line,
                      absl::StrFormat(" %.5f | %.5f |", without.RelativeRms(), with.RelativeRms()));
    }
    std::printf("| %d | %.3f |%s\n", block, bits, line.c_str());
  }
  return absl::OkStatus();
}

class Reproduction {
 public:
  Reproduction(Options options, std::string command)
      : options_(std::move(options)), command_(std::move(command)) {}

  absl::StatusOr<bool> Run() {
    std::printf("    %s\n\n## Errors of the weights, over the weights' RMS\n", command_.c_str());
    RETURN_IF_ERROR(Errors());
    std::printf("\n## Loss in nats per token, and how much more than with 16 bits\n");
    RETURN_IF_ERROR(Losses());
    if (!options_.train.empty()) {
      std::printf("\n## Eval loss after %ld steps of fine-tuning\n",
                  static_cast<long>(options_.train_steps));
      RETURN_IF_ERROR(FineTuning());
    }
    return true;
  }

 private:
  absl::Status Errors() {
    const std::vector<float> normal = NormalWeights(options_.weights, options_.seed);
    RETURN_IF_ERROR(
        PrintErrors(absl::StrCat(options_.weights, " normal weights, blocks of 64"), {normal}));
    ASSIGN_OR_RETURN(const auto linears, ReadLinears(options_.model));
    RETURN_IF_ERROR(PrintErrors(
        absl::StrCat(linears.size(), " linears of ", LastPart(options_.model), ", blocks of 64"),
        linears));
    PrintOtherTypes(normal);
    std::printf("\n%ld normal weights by block; outliers: one in %ld times %.0f\n",
                static_cast<long>(options_.weights), static_cast<long>(kOneOutlierIn),
                double{kOutlierFactor});
    return PrintBlocks(normal,
                       WithOutliers(normal, kOneOutlierIn, kOutlierFactor, options_.seed + 1));
  }

  // The losses of one format on all data.
  absl::StatusOr<std::vector<SampleLosses>> Score(const std::string& format) {
    ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, OpenBaseModel(options_.model, format));
    std::vector<SampleLosses> losses;
    for (const std::string& path : options_.data) {
      ASSIGN_OR_RETURN(losses.emplace_back(),
                       ScoreDataset(*engine, options_.model, path, options_.max_samples));
    }
    engine->Shutdown(absl::Now());
    return losses;
  }

  absl::Status Losses() {
    ASSIGN_OR_RETURN(const std::vector<SampleLosses> reference, Score(kReference));
    std::string head = "\n| format |", rule = "|---|", first = absl::StrCat("| ", kReference, " |");
    for (size_t i = 0; i < options_.data.size(); ++i) {
      absl::StrAppend(&head, " ", LastPart(options_.data[i]), " | more |");
      absl::StrAppend(&rule, "---|---|");
      absl::StrAppend(&first, absl::StrFormat(" %.5f | |", reference[i].Mean()));
    }
    std::printf("%s\n%s\n%s\n", head.c_str(), rule.c_str(), first.c_str());
    for (const char* format : kFormats) {
      ASSIGN_OR_RETURN(const std::vector<SampleLosses> losses, Score(format));
      std::string line = absl::StrCat("| ", format, " |");
      for (size_t i = 0; i < losses.size(); ++i) {
        const LossDifference more = Difference(losses[i], reference[i]);
        absl::StrAppend(&line, absl::StrFormat(" %.5f | %+.5f ± %.5f |", losses[i].Mean(),
                                               more.mean, more.standard_error));
      }
      std::printf("%s\n", line.c_str());
      std::fflush(stdout);
    }
    return absl::OkStatus();
  }

  // As deploy/demo/sql.flags has it.
  TrainingSpec Spec(const ScratchDir& scratch, uint64_t seed) const {
    TrainingSpec spec;
    spec.lora.r = 16;
    spec.lora.lora_alpha = 32;
    spec.train_path = options_.train;
    spec.eval_path = options_.eval;
    spec.packing = false;
    spec.learning_rate = 2e-3;
    spec.warmup_steps = 10;
    spec.max_steps = options_.train_steps;
    spec.eval_steps = options_.train_steps;
    spec.save_steps = options_.train_steps;
    spec.seed = seed;
    spec.output_dir = scratch.File("out");
    return spec;
  }

  absl::Status FineTuning() {
    std::string head = "\n| format |", rule = "|---|";
    for (const uint64_t seed : options_.train_seeds) {
      absl::StrAppend(&head, " seed ", seed, " |");
      absl::StrAppend(&rule, "---|");
    }
    std::printf("%s\n%s\n", head.c_str(), rule.c_str());
    std::vector<std::string> formats = {kReference};
    formats.insert(formats.end(), std::begin(kFormats), std::end(kFormats));
    for (const std::string& format : formats) {
      std::string line = absl::StrCat("| ", format, " |");
      for (const uint64_t seed : options_.train_seeds) {
        const ScratchDir scratch;
        ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                         OpenBaseModel(options_.model, format));
        ASSIGN_OR_RETURN(const FineTuned job, FineTune(*engine, Spec(scratch, seed)));
        engine->Shutdown(absl::Now());
        absl::StrAppend(&line, absl::StrFormat(" %.5f |", job.eval_loss));
      }
      std::printf("%s\n", line.c_str());
      std::fflush(stdout);
    }
    return absl::OkStatus();
  }

  const Options options_;
  const std::string command_;
};

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  return lorad::bench::BenchMain<lorad::bench::Reproduction>(argc, argv,
                                                             lorad::bench::ParseOptions);
}
