// Serving over random weights of a real model's shape, or over a real model: decoding in a closed
// batch; requests that arrive, from many adapters, beside a training job or without one; and how
// soon a job's adapter serves. The engine is lorad's own, without the daemon; bench_grpc puts the
// same load on a daemon.
//   bench_serve --mode=decode --shape=llama-3-8b --batch=1,2,4,8,16,32,64 --context=1024
//               --case="" --case="adapters=1" --case="adapters=64" --case="through=scheduler"
//   bench_serve --mode=load --rate=5 --prompt_tokens=256 --output_tokens=256 --adapters=8
//   --itl_target_ms=30
//               --train=4x2048 --case="duration=60" --case="rate=1:20s,20:20s,1:20s"
//   bench_serve --mode=load --rate=4 --adapters=2000 --rank=8 --choice=zipf:1
//   bench_serve --mode=publish --train=1x2048 --prompt_tokens=16
// Flags are the members of ServeOptions, ServeCase and LoadOptions (bench_serve_options.h,
// load_options.h). One JSON line per measurement goes to stdout, and to the end of --output=FILE; a
// case of mode decode gives one for each batch. Cases of one shape, quant and seed that follow one
// another share the model. A case that fails gives a line with "error", and the exit status is 1.
//   step_ms              of the closed batch; tokens_per_s is batch over the median
//   bound_tokens_per_s   batch over the time that reading step_bytes takes at bandwidth_gbps
//   share_of_bound       of it
// load_report.h, bench_serve_load.h and bench_serve_training.h say what the fields of mode load
// are, bench_serve_publish.h those of mode publish.
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/engine_device.h"
#include "tests/bench/bandwidth.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/bench_serve_decode.h"
#include "tests/bench/bench_serve_load.h"
#include "tests/bench/bench_serve_options.h"
#include "tests/bench/bench_serve_publish.h"
#include "tests/bench/json_lines.h"
#include "tests/bench/load_report.h"
#include "tests/bench/shapes.h"

namespace lorad::bench {
namespace {

Json CaseJson(const ServeCase& of, const DeviceInfo& device) {
  Json json = {{"mode", of.mode},
               {"shape", of.shape},
               {"device", device.name},
               {"quant", of.quant},
               {"quant_head", of.quant_head},
               {"seed", of.seed},
               {"adapters", of.adapters},
               {"rank", of.rank},
               {"adapter_memory_limit", of.adapter_memory},
               {"adapter_host_memory", of.adapter_host_memory},
               {"max_batch_tokens", of.max_batch_tokens}};
  if (of.mode == "load") {
    json["through"] = "engine";
    json["max_running"] = of.max_running;
    json["preload"] = of.preload;
    json["load"] = PlanJson(of);
    if (of.churn > 0) json["churn_adapters"] = of.churn;
    if (of.churn > 0) json["churn_rate"] = of.churn_rate;
  }
  if (of.mode != "decode") {
    json["train"] = of.train;
    if (of.train.empty()) return json;
    json["train_rank"] = of.train_rank;
    json["train_policy"] = of.train_policy;
    json["train_optim"] = of.train_optim;
    if (of.mode == "publish") json["prompt_tokens"] = of.prompt_tokens;
    return json;
  }
  json["through"] = of.through;
  json["steps"] = of.steps;
  json["warmup_steps"] = of.warmup_steps;
  if (of.idle_adapters > 0) json["idle_adapters"] = of.idle_adapters;
  json["prompt_tokens"] = of.context;
  return json;
}

Json PointJson(const DecodePoint& point, double bandwidth) {
  const double median = Percentile(point.step_seconds, 0.5);
  const auto batch = static_cast<double>(point.batch);
  const double bound = batch * bandwidth / static_cast<double>(point.bytes.total());
  return {{"batch", point.batch},
          {"distinct_adapters", point.distinct_adapters},
          {"context", point.context},
          {"step_ms",
           {{"median", 1e3 * median},
            {"p10", 1e3 * Percentile(point.step_seconds, 0.1)},
            {"p90", 1e3 * Percentile(point.step_seconds, 0.9)}}},
          {"tokens_per_s", batch / median},
          {"step_bytes",
           {{"weights", point.bytes.weights},
            {"kv", point.bytes.kv},
            {"adapters", point.bytes.adapters}}},
          {"adapter_bytes_each", point.adapter_bytes_each},
          {"bandwidth_gbps", bandwidth / 1e9},
          {"bound_tokens_per_s", bound},
          {"share_of_bound", batch / median / bound}};
}

class Bench {
 public:
  Bench(ServeOptions options, std::string command_line)
      : options_(std::move(options)), command_line_(std::move(command_line)) {}

  // False: a case failed.
  absl::StatusOr<bool> Run() {
    ASSIGN_OR_RETURN(const SelectedDevice device,
                     SelectDevice(options_.device, options_.num_threads));
    if (!device.note.empty()) std::fprintf(stderr, "%s\n", device.note.c_str());
    backend_ = device.backend;
    bool all = true;
    for (const ServeCase& one : options_.cases) {
      Json json = CaseJson(one, backend_->info());
      const absl::Status status = Measure(one, json);
      if (status.ok()) continue;
      all = false;
      json["error"] = status.ToString();
      RETURN_IF_ERROR(Print(std::move(json)));
    }
    return all;
  }

 private:
  absl::Status Measure(const ServeCase& one, Json& json) {
    RETURN_IF_ERROR(
        model_.Take(one.shape, one.quant, one.seed, *backend_, {.quant_head = one.quant_head}));
    json["parameters"] = model_.get()->num_parameters();
    if (one.mode == "decode") return MeasureDecode(one, json);
    RETURN_IF_ERROR(one.mode == "load" ? MeasureLoad(one, model_.get(), backend_, json)
                                       : MeasurePublication(one, model_.get(), backend_, json));
    return Print(json);
  }

  absl::Status MeasureDecode(const ServeCase& one, const Json& json) {
    RETURN_IF_ERROR(TakeBandwidth());
    ASSIGN_OR_RETURN(const std::unique_ptr<DecodeBench> bench,
                     one.through == "runner" ? DecodeThroughRunner(one, model_.get(), *backend_)
                                             : DecodeThroughScheduler(one, model_.get(), backend_));
    for (const int64_t batch : one.batch) {
      ASSIGN_OR_RETURN(const DecodePoint point, bench->Measure(batch));
      Json line = json;
      line.update(PointJson(point, bandwidth_));
      RETURN_IF_ERROR(Print(std::move(line)));
    }
    return absl::OkStatus();
  }

  absl::Status TakeBandwidth() {
    if (bandwidth_ > 0) return absl::OkStatus();
    bandwidth_ = 1e9 * options_.bandwidth_gbps;
    if (bandwidth_ > 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(bandwidth_, MeasureBandwidth(*backend_));
    return absl::OkStatus();
  }

  absl::Status Print(Json json) {
    json["command_line"] = command_line_;
    return PrintLine(json, options_.output);
  }

  const ServeOptions options_;
  const std::string command_line_;
  std::shared_ptr<Backend> backend_;
  CaseModel model_;
  double bandwidth_ = 0;  // bytes a second; 0: not known yet
};

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  return lorad::bench::BenchMain<lorad::bench::Bench>(argc, argv, lorad::bench::ParseServeOptions);
}
