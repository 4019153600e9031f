#include "tests/bench/reproduce_run.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/lora/peft.h"
#include "engine/train/job.h"
#include "engine/train/lora_init.h"
#include "tests/bench/scratch_dir.h"

namespace lorad::bench {
namespace {

// The demo's.
constexpr int64_t kWarmupSteps = 10;
constexpr char kSchedule[] = "linear";

double ProcessCpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

class CellSink final : public TrainingSink {
 public:
  void OnStart(const TrainingPlan& plan, int64_t) override {
    result_.trainable_parameters = plan.trainable_parameters;
    result_.adapted_modules = plan.adapted_modules;
  }
  void OnStep(const StepReport& report) override {
    result_.steps = report.step;
    result_.tokens += report.tokens;
    result_.train_loss = report.loss;
  }
  // The last counts; there are others at the ends of epochs.
  void OnEval(const EvalReport& report) override {
    result_.eval_loss = report.loss;
    result_.eval_tokens = report.tokens;
  }
  void OnCheckpoint(const CheckpointReport&) override {}
  void OnWarning(const std::string& message) override {
    std::fprintf(stderr, "%s\n", message.c_str());
  }
  void OnFinish(const TrainingResult&) override {}
  void OnStopped(int64_t) override {}
  void OnError(const absl::Status& status) override { error_ = status; }

  absl::StatusOr<CellResult> result() const {
    if (!error_.ok()) return error_;
    return result_;
  }

 private:
  CellResult result_;
  absl::Status error_;
};

// The first rows of a file of one sample a line.
absl::Status CopyRows(const std::string& from, int64_t rows, const std::string& to) {
  std::ifstream file(from);
  std::string line, text;
  for (int64_t row = 0; row < rows; ++row) {
    if (!std::getline(file, line))
      return absl::InvalidArgumentError(
          absl::StrCat("--eval_rows=", rows, ": ", from, " has ", row, " rows"));
    absl::StrAppend(&text, line, "\n");
  }
  return WriteFileAtomically(to, text);
}

// A fresh adapter on all linears, each at the rank of its smaller side: B A is then any matrix.
// One rank for all would leave the larger modules short or be refused for the smaller ones.
absl::StatusOr<HostAdapter> FullRankAdapter(const ModelConfig& config, double alpha,
                                            uint64_t seed) {
  HostAdapter full;
  for (const Projection projection : kAllProjections) {
    LoraSpec spec;
    spec.r = static_cast<int32_t>(
        std::min(InFeatures(config, projection), OutFeatures(config, projection)));
    spec.lora_alpha = alpha;
    spec.target_modules = {std::string(ProjectionName(projection))};
    ASSIGN_OR_RETURN(HostAdapter part, InitialAdapter(spec, config, seed));
    full.config.r = std::max(full.config.r, spec.r);
    std::move(part.modules.begin(), part.modules.end(), std::back_inserter(full.modules));
  }
  const auto by_index = [](const AdapterModule& a, const AdapterModule& b) {
    return a.id.index() < b.id.index();
  };
  std::sort(full.modules.begin(), full.modules.end(), by_index);
  full.config.lora_alpha = alpha;
  full.config.target_modules = {"all-linear"};
  return full;
}

absl::StatusOr<TrainingSpec> MakeSpec(const LoraCell& cell, const ReproduceOptions& options,
                                      const ModelConfig& config, const ScratchDir& dir) {
  const std::string data = absl::StrCat(LORAD_SOURCE_DIR, "/deploy/demo/data/", cell.task);
  TrainingSpec spec;
  spec.lora.r = cell.rank;
  spec.lora.lora_alpha = options.alpha;
  spec.lora.target_modules = cell.targets;
  if (cell.rank == 0) {
    spec.warm_start_dir = dir.File("initial");
    ASSIGN_OR_RETURN(const HostAdapter full, FullRankAdapter(config, options.alpha, cell.seed));
    RETURN_IF_ERROR(WritePeftAdapter(full, spec.warm_start_dir));
    spec.lora.r = full.config.r;
  }
  spec.train_path = data + "_train.jsonl";
  spec.eval_path = data + "_eval.jsonl";
  if (options.eval_rows > 0) {
    const std::string all = std::exchange(spec.eval_path, dir.File("eval.jsonl"));
    RETURN_IF_ERROR(CopyRows(all, options.eval_rows, spec.eval_path));
  }
  spec.output_dir = dir.File("adapter");
  spec.packing = false;
  spec.learning_rate = cell.learning_rate;
  spec.lr_scheduler_type = kSchedule;
  spec.warmup_steps = std::min(kWarmupSteps, options.steps / 10);
  spec.max_steps = options.steps;
  spec.micro_batch_size = options.batch;
  spec.activation_checkpointing = "none";
  spec.seed = cell.seed;
  return spec;
}

absl::Status Advance(TrainingJob& job) {
  while (job.Advance() == TrainingState::kRunning)
    if (job.waiting()) absl::SleepFor(absl::Milliseconds(1));
  if (job.state() == TrainingState::kFinished || job.state() == TrainingState::kFailed)
    return absl::OkStatus();  // the sink has the error
  return absl::InternalError("the job was stopped");
}

}  // namespace

absl::StatusOr<CellResult> RunCell(const LoraCell& cell, const ReproduceOptions& options,
                                   std::shared_ptr<const Model> model, const Tokenizer& tokenizer,
                                   Backend& backend) {
  const ScratchDir dir;
  if (!dir.ok()) return absl::UnavailableError("cannot make a folder for temporary files");
  ASSIGN_OR_RETURN(const TrainingSpec spec, MakeSpec(cell, options, model->config(), dir));
  ASSIGN_OR_RETURN(const std::unique_ptr<TrainingJob> job,
                   TrainingJob::Create(spec, std::move(model), &tokenizer, backend));
  const auto sink = std::make_shared<CellSink>();
  const absl::Time begin = absl::Now();
  const double cpu_begin = ProcessCpuSeconds();
  RETURN_IF_ERROR(job->Start(sink, /*publish=*/nullptr));
  RETURN_IF_ERROR(Advance(*job));
  ASSIGN_OR_RETURN(CellResult result, sink->result());
  result.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  result.cpu_seconds = ProcessCpuSeconds() - cpu_begin;
  return result;
}

}  // namespace lorad::bench
