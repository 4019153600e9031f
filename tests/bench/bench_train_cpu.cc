// Fine-tuning on the CPU: tokens per second of the demo model, and the share of what the
// processor's multiply-add units allow.
//   bench_train_cpu [STEPS [MICRO_BATCH_SIZE [MAX_SEQ_LENGTH [CHECKPOINTING]]]]
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "engine/device/backend.h"
#include "engine/io/tokenizer.h"
#include "engine/model/weights.h"
#include "engine/train/job.h"
#include "tests/bench/fma_peak.h"

namespace lorad::bench {
namespace {

double ProcessCpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

class StepCollector final : public TrainingSink {
 public:
  void OnStart(const TrainingPlan& p, int64_t) override { plan = p; }
  void OnStep(const StepReport& report) override {
    steps.push_back(report);
    cpu_seconds.push_back(ProcessCpuSeconds());
  }
  void OnEval(const EvalReport&) override {}
  void OnCheckpoint(const CheckpointReport&) override {}
  void OnWarning(const std::string& message) override { std::puts(message.c_str()); }
  void OnFinish(const TrainingResult&) override {}
  void OnStopped(int64_t) override {}
  void OnError(const absl::Status& status) override { std::puts(status.ToString().c_str()); }

  TrainingPlan plan;
  std::vector<StepReport> steps;
  std::vector<double> cpu_seconds;  // of the process, at the end of each step
};

struct Flops {
  double linears, adapters, head;  // of a step
  double total() const { return linears + adapters + head; }
};

// Multiply-adds count two. A frozen matrix costs one product forward and one for its input's
// gradient; an adapter's two matrices also one each for their own gradient; the head works on rows
// with a target alone. Attention over samples this short is below 1 % and left out.
Flops StepFlops(const Model& model, const TrainingPlan& plan, const StepReport& step) {
  const ModelConfig& config = model.config();
  double linear_parameters = 0;
  for (const Projection p : kAllProjections)
    linear_parameters += static_cast<double>(InFeatures(config, p) * OutFeatures(config, p));
  linear_parameters *= static_cast<double>(config.num_layers);
  const auto tokens = static_cast<double>(step.tokens);
  return {.linears = 4 * linear_parameters * tokens,
          .adapters = 6 * static_cast<double>(plan.trainable_parameters) * tokens,
          .head = 4 * static_cast<double>(config.vocab_size * config.hidden_size) *
                  static_cast<double>(step.target_tokens)};
}

double Percentile(std::vector<double> values, double p) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(p * static_cast<double>(values.size() - 1))];
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}

void Report(const Model& model, const StepCollector& run) {
  const int threads = static_cast<int>(std::thread::hardware_concurrency());
  const double peak = MeasureFmaFlops(threads);
  std::vector<double> rates, cpu_rates, shares;
  for (size_t i = 2; i < run.steps.size(); ++i) {  // the first two: caches and page faults
    const StepReport& step = run.steps[i];
    const double cpu_seconds = run.cpu_seconds[i] - run.cpu_seconds[i - 1];
    rates.push_back(step.tokens_per_second);
    cpu_rates.push_back(static_cast<double>(step.tokens) * threads / cpu_seconds);
    shares.push_back(StepFlops(model, run.plan, step).total() / cpu_seconds * threads / peak);
  }
  const StepReport& last = run.steps.back();
  const Flops flops = StepFlops(model, run.plan, last);
  const auto tokens = static_cast<double>(last.tokens);
  std::printf("threads                 %d\n", threads);
  std::printf("fp32 FMA bound          %.1f GFLOP/s\n", peak / 1e9);
  std::printf("tokens in a step        %lld, %lld of them targets\n",
              static_cast<long long>(last.tokens), static_cast<long long>(last.target_tokens));
  std::printf("MFLOP per token         %.1f (linears %.1f, adapters %.1f, head %.1f)\n",
              flops.total() / tokens / 1e6, flops.linears / tokens / 1e6,
              flops.adapters / tokens / 1e6, flops.head / tokens / 1e6);
  std::printf("training arena          %.1f MB\n", static_cast<double>(run.plan.peak_bytes) / 1e6);
  std::printf("tokens/s                median %.0f, p10 %.0f, p90 %.0f over %zu steps\n",
              Percentile(rates, 0.5), Percentile(rates, 0.1), Percentile(rates, 0.9), rates.size());
  std::printf("tokens/s of CPU time    median %.0f: what an idle machine would give\n",
              Percentile(cpu_rates, 0.5));
  std::printf("share of the FMA bound  median %.1f %%, by CPU time\n",
              100 * Percentile(shares, 0.5));
}

int Main(int argc, char** argv) {
  const auto argument = [&](int i, int fallback) {
    return argc > i ? std::atoi(argv[i]) : fallback;
  };
  const std::string demo = std::string(LORAD_SOURCE_DIR) + "/deploy/demo";
  const std::filesystem::path out = std::filesystem::temp_directory_path() / "lorad-bench-train";
  std::filesystem::remove_all(out);
  TrainingSpec spec;
  spec.train_path = demo + "/data/sql_train.jsonl";
  spec.output_dir = out.string();
  spec.max_steps = std::max(argument(1, 20), 3);
  spec.micro_batch_size = argument(2, 8);
  spec.max_seq_length = argument(3, 256);
  if (argc > 4) spec.activation_checkpointing = argv[4];

  const std::unique_ptr<Backend> backend = CreateCpuBackend();
  const auto model = Model::Load(demo + "/base", QuantSpec{}, *backend);
  if (!model.ok()) return Fail(model.status());
  const auto tokenizer = Tokenizer::Load(demo + "/base");
  if (!tokenizer.ok()) return Fail(tokenizer.status());
  const auto job = TrainingJob::Create(spec, *model, tokenizer->get(), *backend);
  if (!job.ok()) return Fail(job.status());
  const auto run = std::make_shared<StepCollector>();
  const absl::Status started = (*job)->Start(run, /*publish=*/nullptr);
  if (!started.ok()) return Fail(started);
  while ((*job)->Advance() == TrainingState::kRunning) {
  }
  std::filesystem::remove_all(out);
  if ((*job)->state() != TrainingState::kFinished) return 1;
  Report(**model, *run);
  return 0;
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) { return lorad::bench::Main(argc, argv); }
