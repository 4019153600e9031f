// What bench_serve is asked to measure.
#ifndef LORAD_TESTS_BENCH_BENCH_SERVE_OPTIONS_H_
#define LORAD_TESTS_BENCH_BENCH_SERVE_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/bench/load_options.h"

namespace lorad::bench {

// One measurement. Each member is the flag of its name, those of LoadOptions among them.
struct ServeCase : LoadOptions {
  std::string mode = "decode";       // decode | load | publish
  std::string shape = "llama-3-8b";  // see ShapeModel
  std::string quant = "nf4";         // bf16, or what ParseQuantSpec takes
  bool quant_head = false;           // EngineConfig's
  uint64_t seed = 0;                 // of weights, adapters, prompts and arrivals

  int64_t adapters = 0;  // registered (load), or spread over the batch (decode); 0: base alone
  int32_t rank = 16;     // of each, on all linears
  int64_t adapter_memory = 0;  // bytes of the device for adapters; 0: what the engine plans
  int64_t adapter_host_memory = int64_t{4} << 30;  // EngineConfig::adapter_host_memory_bytes
  int64_t memory_limit = 0;                        // EngineConfig::memory_limit_bytes
  int64_t kv_cache_tokens = 0;  // EngineConfig's; 0: in decode what the batch needs
  int32_t max_batch_tokens = 2048;
  int32_t max_running = 64;  // EngineConfig::max_running_requests; in decode the largest batch

  // decode
  std::vector<int64_t> batch = {1, 2, 4, 8, 16, 32, 64};
  int64_t context = 1024;          // tokens in the cache before the first measured step
  int64_t steps = 50;              // measured
  int64_t warmup_steps = 30;       // before them: a GPU that was idle is slower for some thirty
  int64_t idle_adapters = 0;       // on the device too, of no row; through=runner
  std::string through = "runner";  // runner: forward passes alone; scheduler: the engine's façade

  // load; and what LoadOptions says
  int64_t preload = 0;      // adapters that are on the device before the first request
  int64_t churn = 0;        // adapters that no request names, loaded one after another beside them
  double churn_rate = 0;    // of these loads a second; 0: the next when one is done
  std::string train;        // MICRO_BATCHxSEQ of a job beside the requests; empty: none. Of publish
  int32_t train_rank = 16;  // of its adapter, on all linears
  std::string train_policy = "every_layer";  // TrainingSpec::activation_checkpointing
  std::string train_optim = "adamw_torch";   // TrainingSpec::optim
  double train_solo_seconds = 10;            // of training alone, measured before the requests

  // publish; and prompt_tokens
  int64_t rounds = 5;  // jobs
};

struct MicroBatch {
  int32_t rows = 0, tokens = 0;  // tokens of each row
};
// Of ServeCase::train. kInvalidArgument: not MICRO_BATCHxSEQ.
absl::StatusOr<MicroBatch> ParseMicroBatch(const std::string& text);

struct ServeOptions {
  std::string device = "auto";  // auto, cpu or cuda:N
  int32_t num_threads = 0;      // of the CPU backend; 0: all cores
  double bandwidth_gbps = 0;    // the bound of decoding, 10^9 bytes; 0: MeasureBandwidth
  std::string output;           // file to append results to
  std::vector<ServeCase> cases;
};

// Arguments as case_flags.h takes them. kInvalidArgument names the argument, its value and what it
// may be.
absl::StatusOr<ServeOptions> ParseServeOptions(const std::vector<std::string>& arguments);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_SERVE_OPTIONS_H_
