// Serving on the CPU through the façade: tokens per second of decoding for growing batches, with
// and without adapters, and of prefill; and the share of what memory and multiply-add units allow.
// Rates are per second of CPU time over all threads: what an otherwise idle machine gives, also on
// a busy one, except that threads which spin for each other count as working.
//   bench_decode_cpu [MODEL_DIR [THREADS [TOKENS]]]
// MODEL_DIR: deploy/demo/base, or tests/golden/llama-gqa where that is not there.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/lora/peft.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"
#include "tests/bench/fma_peak.h"
#include "tests/bench/read_peak.h"

namespace lorad::bench {
namespace {

constexpr int kPromptTokens = 32;
constexpr int kRank = 16;

// CPU time of the whole process: the engine thread and the workers; nothing else runs.
double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

class TimingSink final : public GenerateSink {
 public:
  void OnDelta(GenerateDelta) override {
    last = CpuSeconds();
    if (tokens++ == 0) first = last;
  }
  void OnFinish(const GenerateResult&) override { ended.Notify(); }
  void OnError(const absl::Status& status) override {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    std::exit(1);
  }
  int tokens = 0;
  double first = 0, last = 0;  // CPU seconds
  absl::Notification ended;
};

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  std::exit(1);
}

GenerateRequest Request(int seed, int prompt_tokens, int max_tokens, int vocab,
                        const std::string& adapter) {
  GenerateRequest request;
  std::mt19937 random(seed);
  for (int i = 0; i < prompt_tokens; ++i)
    request.prompt.push_back(static_cast<int32_t>(random() % vocab));
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  request.adapter_id = adapter;
  return request;
}

// Decoded tokens per second of `batch` requests together, from the first moment at which all of
// them decode to the first end.
double DecodeRate(Engine& engine, int threads, int batch, int tokens,
                  const std::vector<std::string>& adapters) {
  std::vector<std::shared_ptr<TimingSink>> sinks;
  for (int i = 0; i < batch; ++i) {
    sinks.push_back(std::make_shared<TimingSink>());
    const std::string adapter = adapters.empty() ? "" : adapters[i % adapters.size()];
    OrDie(engine.Generate(Request(i, kPromptTokens, tokens, engine.model().vocab_size, adapter),
                          absl::InfiniteFuture(), sinks.back()));
  }
  double begin = 0, end = 1e30;
  for (const auto& sink : sinks) {
    sink->ended.WaitForNotification();
    begin = std::max(begin, sink->first);
    end = std::min(end, sink->last);
  }
  // All are as long, so they begin and end within a few steps of each other.
  return batch * (tokens - 1) / (end - begin) * threads;
}

double PrefillRate(Engine& engine, int threads, int tokens) {
  auto sink = std::make_shared<TimingSink>();
  const double begin = CpuSeconds();
  OrDie(engine.Generate(Request(1, tokens, 1, engine.model().vocab_size, ""),
                        absl::InfiniteFuture(), sink));
  sink->ended.WaitForNotification();
  return tokens / (sink->first - begin) * threads;
}

// A random adapter of rank 16 on all linears; its id.
std::string MakeAdapter(Engine& engine, const ModelConfig& config, int seed,
                        const std::filesystem::path& dir) {
  HostAdapter adapter;
  adapter.config.r = kRank;
  adapter.config.lora_alpha = kRank;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.01f);
  for (const Projection p : kAllProjections)
    adapter.config.target_modules.emplace_back(ProjectionName(p));
  std::sort(adapter.config.target_modules.begin(), adapter.config.target_modules.end());
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const Projection p : kAllProjections) {
      AdapterModule module;
      module.id = {layer, p};
      module.rank = kRank;
      module.alpha = kRank;
      module.scaling = 1;
      module.a.resize(kRank * InFeatures(config, p));
      module.b.resize(kRank * OutFeatures(config, p));
      for (float& value : module.a) value = normal(random);
      for (float& value : module.b) value = normal(random);
      adapter.modules.push_back(std::move(module));
    }
  }
  const std::string path = (dir / std::to_string(seed)).string();
  if (const absl::Status status = WritePeftAdapter(adapter, path); !status.ok())
    OrDie(absl::StatusOr<int>(status));
  return OrDie(engine.RegisterAdapter(path)).id;
}

// What one decoding step must at least do: read the weights once, whatever the batch, and multiply
// every parameter with every row. Attention over so short a context is below 1 % and left out.
struct Bound {
  double weight_bytes, flops_per_row, bytes_per_second, flops_per_second;

  double TokensPerSecond(int batch) const {
    const double read = weight_bytes / bytes_per_second;
    const double multiply = batch * flops_per_row / flops_per_second;
    return batch / std::max(read, multiply);
  }
};

Bound MeasureBound(const Engine& engine, const ModelConfig& config, int threads) {
  double parameters = 0;
  for (const Projection p : kAllProjections)
    parameters += static_cast<double>(InFeatures(config, p) * OutFeatures(config, p));
  const auto head = static_cast<double>(config.vocab_size * config.hidden_size);
  parameters = parameters * static_cast<double>(config.num_layers) + head;
  // An untied embedding is looked up, not read.
  const double embedding = config.tie_word_embeddings ? 0 : 2 * head;
  Bound bound;
  bound.weight_bytes = static_cast<double>(engine.model().weight_bytes) - embedding;
  bound.flops_per_row = 2 * parameters;
  bound.bytes_per_second =
      MeasureReadBytesPerSecond(static_cast<int64_t>(bound.weight_bytes), threads);
  bound.flops_per_second = MeasureFmaFlops(threads);
  return bound;
}

int Main(int argc, char** argv) {
  const std::string root = LORAD_SOURCE_DIR;
  const bool demo = std::filesystem::exists(root + "/deploy/demo/base/model.safetensors");
  EngineConfig engine_config;
  engine_config.model_dir =
      argc > 1 ? argv[1] : root + (demo ? "/deploy/demo/base" : "/tests/golden/llama-gqa");
  engine_config.device = "cpu";
  engine_config.prefix_cache = false;  // prompts are repeated to be measured again
  const int threads =
      argc > 2 ? std::atoi(argv[2]) : static_cast<int>(std::thread::hardware_concurrency());
  engine_config.num_threads = threads;
  const int tokens = argc > 3 ? std::max(std::atoi(argv[3]), 2) : 128;

  const std::unique_ptr<Engine> engine = OrDie(CreateEngine(engine_config));
  const ModelConfig config = OrDie(LoadModelConfig(engine_config.model_dir));
  const std::filesystem::path dir = std::filesystem::temp_directory_path() / "lorad-bench-decode";
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  std::vector<std::string> adapters;
  for (int i = 0; i < 4; ++i) adapters.push_back(MakeAdapter(*engine, config, i, dir));

  const Bound bound = MeasureBound(*engine, config, threads);
  std::printf("model %s, %s, %.1f M parameters, %.1f MB on the device; %d threads\n",
              engine->model().name.c_str(), engine->model().quant.c_str(),
              static_cast<double>(engine->model().parameters) / 1e6,
              static_cast<double>(engine->model().weight_bytes) / 1e6, threads);
  std::printf("bounds: reading the weights %.1f GB/s, fp32 FMA %.1f GFLOP/s\n",
              bound.bytes_per_second / 1e9, bound.flops_per_second / 1e9);
  DecodeRate(*engine, threads, 4, tokens, adapters);  // page faults, adapters to the device
  std::printf("%-8s %14s %14s %10s %22s\n", "batch", "decode tok/s", "bound tok/s", "share",
              "with 4 adapters tok/s");
  for (const int batch : {1, 2, 4, 8, 16}) {
    double best = 0, adapted = 0;
    for (int run = 0; run < 3; ++run) {
      best = std::max(best, DecodeRate(*engine, threads, batch, tokens, {}));
      adapted = std::max(adapted, DecodeRate(*engine, threads, batch, tokens, adapters));
    }
    std::printf("%-8d %14.0f %14.0f %9.1f%% %15.0f (%+.0f%%)\n", batch, best,
                bound.TokensPerSecond(batch), 100 * best / bound.TokensPerSecond(batch), adapted,
                100 * (adapted / best - 1));
  }
  const int prompt = std::min(512, engine->model().context_tokens - 1);
  double prefill = 0;
  for (int run = 0; run < 5; ++run)
    prefill = std::max(prefill, PrefillRate(*engine, threads, prompt));
  const double head = 2.0 * static_cast<double>(config.vocab_size * config.hidden_size);
  std::printf("prefill of %d tokens: %.0f tok/s, %.1f%% of the FMA bound\n", prompt, prefill,
              100 * prefill * (bound.flops_per_row - head) / bound.flops_per_second);
  engine->Shutdown(absl::Now());
  std::filesystem::remove_all(dir);
  return 0;
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) { return lorad::bench::Main(argc, argv); }
