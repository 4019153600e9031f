// Fine-tuning on random weights of a real model's shape: tokens per second, memory, and the share
// of what the device's arithmetic allows. Planning, memory and steps are a job's own; tokenizer,
// evaluation and checkpoints are left out. The model is built on the device in its final form, so a
// shape fits wherever its job does.
//   bench_train --shape=llama-3-8b --rank=16 --batch=4 --seq=2048 --policy=every_layer
//               --optim=paged_adamw_8bit --case="batch=1" --case="batch=4 policy=none"
// Flags are the members of TrainCase and BenchOptions (bench_train_options.h). One JSON line per
// case goes to stdout, and to the end of --output=FILE; the plan of its memory goes to stderr
// before the first step. Cases of one shape, base and seed that follow one another share the model.
// A case that fails gives a line with "error", and the exit status is 1.
//   tflops          all operations, recomputation among them, over the median step
//   share_of_bound  tflops / --peak_tflops: the dense bf16 peak of H100 and H200 SXM unless it is
//                   given, on the CPU what its FMA units reach in fp32
//   planned_peak_bytes  device_peak_bytes as `loractl plan memory` gives it, from shapes alone
//   outside_bytes   what the driver says is gone beyond lorad's own count: context, code, libraries
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/core/status_macros.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/bench_train_options.h"
#include "tests/bench/bench_train_run.h"
#include "tests/bench/fma_peak.h"
#include "tests/bench/json_lines.h"
#include "tests/bench/shapes.h"

namespace lorad::bench {
namespace {

// NVIDIA's data sheet, H100 and H200 SXM: bf16, dense, fp32 sums.
constexpr double kHopperTflops = 989;

Json CaseJson(const TrainCase& of, const std::string& device) {
  return {{"shape", of.shape},
          {"device", device},
          {"base", of.base},
          {"rank", of.rank},
          {"alpha", of.alpha},
          {"targets", of.targets},
          {"batch", of.batch},
          {"seq", of.seq},
          {"policy", of.policy},
          {"optim", of.optim},
          {"dropout", of.dropout},
          {"seed", of.seed},
          {"memory_limit", of.memory_limit}};
}

void AddMemory(const CaseResult& result, Json& json) {
  Json tags;
  for (int i = 0; i < kNumMemoryTags; ++i)
    tags[Name(static_cast<MemoryTag>(i))] = result.peak_bytes[i];
  json["peak_bytes"] = std::move(tags);
  json["device_peak_bytes"] = result.device_peak_bytes;
  json["predicted_peak_bytes"] = result.predicted.device_peak();
  const TrainingPlan& training = result.predicted.training;
  json["predicted"] = {{"weights", result.predicted.weights},
                       {"workspace", result.predicted.other},
                       {"training", training.peak_bytes},
                       {"training_adapter", training.adapter_bytes},
                       {"training_activations", training.activation_bytes},
                       {"training_workspace", training.workspace_bytes},
                       {"pinned", training.pinned_bytes}};
  json["planned_peak_bytes"] = result.predicted.from_shapes;
  json["arena_peak_bytes"] = result.arena_peak_bytes;
  if (result.driver_peak_bytes >= 0)
    json["outside_bytes"] = result.driver_peak_bytes - result.device_peak_bytes;
}

void AddRates(const CaseResult& result, double peak_tflops, Json& json) {
  const double median = Percentile(result.step_seconds, 0.5);
  json["tokens_per_s"] = static_cast<double>(result.tokens) / median;
  json["step_ms"] = {{"median", 1e3 * median},
                     {"p10", 1e3 * Percentile(result.step_seconds, 0.1)},
                     {"p90", 1e3 * Percentile(result.step_seconds, 0.9)}};
  json["steps"] = result.step_seconds.size();
  json["tokens"] = result.tokens;
  json["target_tokens"] = result.target_tokens;
  json["loss"] = {{"first", result.first_loss}, {"last", result.last_loss}};
  const StepFlops& flops = result.flops;
  json["step_tflop"] = {{"linears", flops.linears / 1e12},     {"adapters", flops.adapters / 1e12},
                        {"attention", flops.attention / 1e12}, {"head", flops.head / 1e12},
                        {"recompute", flops.recompute / 1e12}, {"total", flops.total() / 1e12}};
  json["tflops"] = flops.total() / median / 1e12;
  json["tflops_without_recompute"] = flops.model() / median / 1e12;
  if (peak_tflops == 0) return;  // a processor whose peak is not measured
  json["peak_tflops"] = peak_tflops;
  json["share_of_bound"] = flops.total() / median / 1e12 / peak_tflops;
}

class Bench {
 public:
  Bench(BenchOptions options, std::string command_line)
      : options_(std::move(options)), command_line_(std::move(command_line)) {}

  // False: a case failed.
  absl::StatusOr<bool> Run() {
    RETURN_IF_ERROR(OpenDevice());
    if (options_.peak_tflops == 0)
      options_.peak_tflops =
          device_.gpu >= 0
              ? kHopperTflops
              : MeasureFmaFlops(static_cast<int>(std::thread::hardware_concurrency())) / 1e12;
    return RunCases(
        options_.cases, options_.output, command_line_,
        [&](const TrainCase& one) { return CaseJson(one, backend_->info().name); },
        [&](const TrainCase& one, Json& json) { return Measure(one, json); });
  }

 private:
  absl::Status OpenDevice() {
    if (options_.device == "cpu") {
      backend_ = CreateCpuBackend();
      device_.backend = backend_.get();
      return absl::OkStatus();
    }
    absl::string_view rest = options_.device;
    device_.gpu = 0;
    if (!absl::ConsumePrefix(&rest, "cuda") ||
        !(rest.empty() || (absl::ConsumePrefix(&rest, ":") &&
                           absl::SimpleAtoi(rest, &device_.gpu) && device_.gpu >= 0)))
      return absl::InvalidArgumentError(
          absl::StrCat("device is \"", options_.device, "\"; it must be cuda, cuda:N or cpu"));
    // Before the backend is there, so that what it takes counts.
    device_.free_at_start = FreeDeviceBytes(device_.gpu);
    ASSIGN_OR_RETURN(backend_, CreateCudaBackend(device_.gpu));
    device_.backend = backend_.get();
    return absl::OkStatus();
  }

  absl::Status Measure(const TrainCase& one, Json& json) {
    RETURN_IF_ERROR(model_.Take(one.shape, one.base, one.seed, *backend_));
    json["parameters"] = model_.get()->num_parameters();
    json["model_build_s"] = model_.seconds();
    ASSIGN_OR_RETURN(const CaseResult result, RunCase(one, model_.get(), device_));
    json["trainable_parameters"] = result.predicted.training.trainable_parameters;
    json["checkpointing"] = result.predicted.training.activation_checkpointing;
    AddRates(result, options_.peak_tflops, json);
    AddMemory(result, json);
    return absl::OkStatus();
  }

  BenchOptions options_;
  const std::string command_line_;
  std::unique_ptr<Backend> backend_;
  BenchDevice device_;
  CaseModel model_;
};

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  return lorad::bench::BenchMain<lorad::bench::Bench>(argc, argv, lorad::bench::ParseBenchOptions);
}
