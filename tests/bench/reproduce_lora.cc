// Tables of the LoRA and QLoRA papers on the demo tasks: fine-tunes the demo base once for every
// cell, learning rate and seed, through TrainingJob, and prints the eval loss.
//   reproduce_lora --table=rank --task=sql --steps=100 --seeds=0,1
//   reproduce_lora --table=full_rank --task=sql --learning_rates=1e-3,2e-3 --methods=lora,full_rank
//   rank       ranks by adapted attention weights (Hu 2021, table 6), nf4 base
//   full_rank  qlora (nf4, double quantisation, r 16), lora (bf16 base, r 16) and full_rank (bf16
//              base, every linear at the rank of its smaller side; the engine trains adapters
//              alone), all on every linear (Dettmers 2023, tables 2 to 4)
// Flags are the members of ReproduceOptions (reproduce_cells.h). One JSON line a run goes to
// stdout, and to the end of --output=FILE: the cell, what was trained, and
//   eval_loss    nats per completion token after the last step, over the eval file
//   cpu_seconds  of steps and evaluation, over all threads
// A run that fails gives a line with "error", and the exit status is 1.
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/json_lines.h"
#include "tests/bench/reproduce_cells.h"
#include "tests/bench/reproduce_run.h"
#include "tests/bench/shapes.h"

namespace lorad::bench {
namespace {

const char kModel[] = LORAD_SOURCE_DIR "/deploy/demo/base";

Json CellJson(const LoraCell& cell, const ReproduceOptions& options) {
  Json json = {{"table", options.table}, {"task", cell.task},       {"method", cell.method},
               {"base", cell.base},      {"weights", cell.weights}, {"rank", cell.rank}};
  if (cell.rank == 0) json["rank"] = "full";
  json["alpha"] = options.alpha;
  json["learning_rate"] = cell.learning_rate;
  json["seed"] = cell.seed;
  json["batch"] = options.batch;
  return json;
}

void AddResult(const CellResult& result, Json& json) {
  json["steps"] = result.steps;
  json["trainable_parameters"] = result.trainable_parameters;
  json["adapted_modules"] = result.adapted_modules;
  json["tokens"] = result.tokens;
  json["train_loss"] = result.train_loss;
  json["eval_loss"] = result.eval_loss;
  json["eval_tokens"] = result.eval_tokens;
  json["seconds"] = result.seconds;
  json["cpu_seconds"] = result.cpu_seconds;
}

class Reproduction {
 public:
  Reproduction(ReproduceOptions options, std::string command_line)
      : options_(std::move(options)),
        command_line_(std::move(command_line)),
        backend_(CreateCpuBackend({.num_threads = options_.num_threads})) {}

  // False: a run failed.
  absl::StatusOr<bool> Run() {
    ASSIGN_OR_RETURN(const std::unique_ptr<const Tokenizer> tokenizer, Tokenizer::Load(kModel));
    return RunCases(
        MakeCells(options_), options_.output, command_line_,
        [&](const LoraCell& one) { return CellJson(one, options_); },
        [&](const LoraCell& one, Json& json) { return Measure(one, *tokenizer, json); });
  }

 private:
  absl::Status Measure(const LoraCell& cell, const Tokenizer& tokenizer, Json& json) {
    // The model is the checkpoint whatever the seed.
    RETURN_IF_ERROR(model_.Take(kModel, cell.base, /*seed=*/0, *backend_));
    ASSIGN_OR_RETURN(const CellResult result,
                     RunCell(cell, options_, model_.get(), tokenizer, *backend_));
    AddResult(result, json);
    return absl::OkStatus();
  }

  const ReproduceOptions options_;
  const std::string command_line_;
  const std::unique_ptr<Backend> backend_;
  CaseModel model_;
};

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  return lorad::bench::BenchMain<lorad::bench::Reproduction>(argc, argv,
                                                             lorad::bench::ParseReproduceOptions);
}
