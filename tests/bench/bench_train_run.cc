#include "tests/bench/bench_train_run.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/plan/memory.h"
#include "engine/train/job_memory.h"
#include "engine/train/job_setup.h"
#include "engine/train/micro_batch.h"
#include "engine/train/step.h"
#include "tests/bench/random_rows.h"
#include "tests/bench/scratch_dir.h"

namespace lorad::bench {
namespace {

constexpr double kLearningRate = 1e-4;

TrainingSpec MakeSpec(const TrainCase& options, const ScratchDir& dir) {
  TrainingSpec spec;
  spec.lora.r = options.rank;
  spec.lora.lora_alpha = options.alpha;
  spec.lora.lora_dropout = options.dropout;
  spec.lora.target_modules = absl::StrSplit(options.targets, ',');
  spec.train_path = dir.File("train.jsonl");
  spec.output_dir = dir.File("adapter");
  spec.max_seq_length = options.seq;
  spec.micro_batch_size = options.batch;
  spec.max_steps = options.warmup + options.steps;
  spec.learning_rate = kLearningRate;
  spec.optim = options.optim;
  spec.activation_checkpointing = options.policy;
  spec.seed = options.seed;
  return spec;
}

absl::StatusOr<std::unique_ptr<JobSetup>> Prepare(const TrainCase& options,
                                                  std::shared_ptr<const Model> model,
                                                  Backend& backend) {
  const ScratchDir dir;
  if (!dir.ok()) return absl::UnavailableError("cannot make a folder for temporary files");
  const TrainingSpec spec = MakeSpec(options, dir);
  RETURN_IF_ERROR(WriteFileAtomically(
      spec.train_path,
      RandomRows(options.batch, options.seq, model->config().vocab_size, options.seed)));
  return PrepareJob(spec, std::move(model), /*tokenizer=*/nullptr, backend);
}

// Training may have what the case's limit leaves beside what is there already.
absl::Status LimitTraining(int64_t memory_limit, Allocator& allocator) {
  allocator.SetLimit(MemoryTag::kTraining, 0);
  if (memory_limit == 0) return absl::OkStatus();
  const int64_t used = UsedDeviceBytes(allocator);
  if (used >= memory_limit)
    return absl::ResourceExhaustedError(absl::StrCat("memory_limit is ", memory_limit,
                                                     " bytes, of which the model and the ops' "
                                                     "workspace take ",
                                                     used, ": nothing is left for training"));
  allocator.SetLimit(MemoryTag::kTraining, memory_limit - used);
  return absl::OkStatus();
}

void PrintPlan(const PredictedMemory& plan) {
  const auto gib = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); };
  const TrainingPlan& training = plan.training;
  std::fprintf(stderr,
               "plan: %s; GiB: weights %.3f, ops' workspace %.3f, training %.3f (adapter %.3f, "
               "activations %.3f, workspace %.3f), device peak %.3f, pinned on the host %.3f\n",
               training.activation_checkpointing.c_str(), gib(plan.weights), gib(plan.other),
               gib(training.peak_bytes), gib(training.adapter_bytes),
               gib(training.activation_bytes), gib(training.workspace_bytes),
               gib(plan.device_peak()), gib(training.pinned_bytes));
}

class CaseRun {
 public:
  CaseRun(const TrainCase& options, std::shared_ptr<const Model> model, const BenchDevice& device)
      : options_(options),
        model_(std::move(model)),
        backend_(*device.backend),
        device_(device),
        rows_(options.batch),
        peaks_(backend_.allocator()) {
    std::iota(rows_.begin(), rows_.end(), 0);
  }
  ~CaseRun() {
    // Queued work may still use the block; after an error nobody waits for another.
    if (stream_ != nullptr) (void)stream_->Synchronize();
  }

  absl::StatusOr<CaseResult> Run() {
    RETURN_IF_ERROR(Plan());
    RETURN_IF_ERROR(Allocate());
    for (int64_t i = 0; i < options_.warmup + options_.steps; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      RETURN_IF_ERROR(Step(i));
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      if (i >= options_.warmup) result_.step_seconds.push_back(seconds.count());
      RETURN_IF_ERROR(Record(i));
    }
    for (int tag = 0; tag < kNumMemoryTags; ++tag)
      result_.peak_bytes.push_back(peaks_.Peak(static_cast<MemoryTag>(tag)));
    result_.device_peak_bytes = peaks_.DevicePeak();
    result_.arena_peak_bytes = arena_->peak_bytes();
    return std::move(result_);
  }

 private:
  absl::Status Plan() {
    RETURN_IF_ERROR(LimitTraining(options_.memory_limit, backend_.allocator()));
    ASSIGN_OR_RETURN(setup_, Prepare(options_, model_, backend_));
    PredictedMemory& plan = result_.predicted;
    plan.training = setup_->plan;
    plan.weights = ModelWeightBytes(model_->config(), model_->quant());
    plan.other = UsedDeviceBytes(backend_.allocator()) - model_->weight_bytes();
    MemoryRequest request = PlanRequestOf(*setup_, backend_);
    if (options_.memory_limit > 0) request.budget_bytes = options_.memory_limit;
    ASSIGN_OR_RETURN(const MemoryPlan from_shapes, MakeMemoryPlan(request));
    plan.from_shapes = from_shapes.total_bytes;
    PrintPlan(plan);
    ASSIGN_OR_RETURN(result_.flops,
                     CountStepFlops(model_->config(), setup_->initial, setup_->pass.checkpointing,
                                    options_.batch, options_.seq));
    return absl::OkStatus();
  }

  // As JobRun does.
  absl::Status Allocate() {
    const int64_t bytes = setup_->plan.peak_bytes;
    ASSIGN_OR_RETURN(stream_, backend_.CreateStream());
    ASSIGN_OR_RETURN(block_, backend_.allocator().Allocate(bytes, MemoryTag::kTraining));
    arena_.emplace("training", block_.data(), bytes);
    ASSIGN_OR_RETURN(TrainingMemory memory,
                     LayOutTrainingMemory(setup_->initial, backend_, setup_->tokens, *arena_,
                                          setup_->optimizer));
    memory_ = std::move(memory);
    PassOptions pass = setup_->pass;
    ASSIGN_OR_RETURN(offload_, CreateInputOffload(model_->config(), backend_, pass.checkpointing,
                                                  setup_->tokens.micro_batch));
    pass.offload = offload_.get();
    step_.emplace(*model_, backend_, memory_->adapter, pass, OptimizerOptions{}, memory_->loss,
                  memory_->norm);
    return memory_->adapter.SetWeights(setup_->initial, *stream_);
  }

  // Ends when the device has: the update is queued last.
  absl::Status Step(int64_t index) {
    StepInput input;
    input.micro_batches.push_back(MakeMicroBatch(setup_->train, rows_));
    input.learning_rate = kLearningRate;
    input.update = index + 1;
    input.dropout.probability = static_cast<float>(options_.dropout);
    input.dropout.seed = options_.seed;
    input.dropout.step = static_cast<uint32_t>(index);
    RETURN_IF_ERROR(step_->Begin(std::move(input), *arena_, *stream_));
    bool more = true;
    while (more) {
      ASSIGN_OR_RETURN(more, step_->Advance(*stream_));
    }
    return stream_->Synchronize();
  }

  absl::Status Record(int64_t index) {
    const StepOutcome& outcome = step_->outcome();
    if (!outcome.updated)
      return absl::InternalError(absl::StrCat("step ", index + 1, ": loss ", outcome.loss,
                                              ", gradient norm ", outcome.grad_norm));
    if (index == 0) result_.first_loss = outcome.loss;
    result_.last_loss = outcome.loss;
    result_.tokens = outcome.tokens;
    result_.target_tokens = outcome.target_tokens;
    peaks_.Sample();
    if (device_.free_at_start >= 0)
      result_.driver_peak_bytes =
          std::max(result_.driver_peak_bytes, device_.free_at_start - FreeDeviceBytes(device_.gpu));
    return absl::OkStatus();
  }

  const TrainCase& options_;
  const std::shared_ptr<const Model> model_;
  Backend& backend_;
  const BenchDevice device_;
  std::vector<uint32_t> rows_;  // the samples of a step: all
  MemoryPeaks peaks_;
  CaseResult result_;

  std::unique_ptr<JobSetup> setup_;
  std::unique_ptr<Stream> stream_;
  DeviceBuffer block_;
  std::unique_ptr<InputOffload> offload_;  // its copies use the block
  std::optional<Arena> arena_;
  std::optional<TrainingMemory> memory_;
  std::optional<TrainStep> step_;
};

}  // namespace

absl::StatusOr<CaseResult> RunCase(const TrainCase& options, std::shared_ptr<const Model> model,
                                   const BenchDevice& device) {
  return CaseRun(options, std::move(model), device).Run();
}

}  // namespace lorad::bench
