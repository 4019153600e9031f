// Adapters of an 8B Llama (all linears): what they take on the device, and how long they are on
// their way there from host memory and from a training job. JSON, one line for each.
//   bench_adapters [cpu|cuda:N [RANK]]      default: cuda:0, or the CPU; rank 16
// No model is needed: only sizes matter.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/engine_device.h"
#include "engine/kv/kv_cache.h"
#include "engine/lora/adapter_image.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"
#include "engine/sched/kv_adapter_memory.h"
#include "engine/train/adapter_snapshot.h"
#include "tests/bench/shapes.h"

namespace lorad::bench {
namespace {

constexpr int kRounds = 20;
constexpr int kManyAdapters = 60;

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  std::exit(1);
}
void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

HostAdapter MakeAdapter(const ModelConfig& config, int32_t rank) {
  HostAdapter adapter;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const Projection p : kAllProjections) {
      AdapterModule module;
      module.id = {layer, p};
      module.rank = rank;
      module.alpha = rank;
      module.scaling = 1;
      module.a.assign(rank * InFeatures(config, p), 0.25f);
      module.b.assign(rank * OutFeatures(config, p), -0.5f);
      adapter.modules.push_back(std::move(module));
    }
  }
  return adapter;
}

// Milliseconds of each of kRounds calls, ascending.
template <typename Work>
std::vector<double> Time(const Work& work) {
  std::vector<double> times;
  for (int i = 0; i < kRounds; ++i) {
    const absl::Time began = absl::Now();
    work();
    times.push_back(absl::ToDoubleMilliseconds(absl::Now() - began));
  }
  std::sort(times.begin(), times.end());
  return times;
}
void Print(const char* what, const std::vector<double>& ms) {
  std::printf("{\"what\":\"%s\",\"median_ms\":%.3f,\"min_ms\":%.3f,\"max_ms\":%.3f}\n", what,
              ms[ms.size() / 2], ms.front(), ms.back());
}

void WaitFor(Event& event) {
  while (!OrDie(event.Done())) {
  }
}

// Brought to the device as the store does it, and thrown away.
void BenchLoads(const AdapterImage& image, KvAdapterMemory& memory, Backend& backend) {
  const auto stream = OrDie(backend.CreateStream());
  const auto event = OrDie(backend.CreateEvent());
  std::vector<double> queueing;
  Print("host to device", Time([&] {
          const absl::Time began = absl::Now();
          const auto device = OrDie(DeviceAdapter::Create(image, memory, backend, *stream));
          OrDie(event->Record(*stream));
          queueing.push_back(absl::ToDoubleMilliseconds(absl::Now() - began));
          WaitFor(*event);
        }));
  std::sort(queueing.begin(), queueing.end());
  Print("of that, on the engine thread", queueing);
}

void BenchSnapshot(const HostAdapter& adapter, Backend& backend) {
  Arena measuring = Arena::Measuring("bench");
  OrDie(TrainableAdapter::Create(adapter, backend, measuring).status());
  const DeviceBuffer block =
      OrDie(backend.allocator().Allocate(measuring.peak_bytes(), MemoryTag::kTraining));
  Arena arena("bench", block.data(), measuring.peak_bytes());
  TrainableAdapter trained = OrDie(TrainableAdapter::Create(adapter, backend, arena));
  const auto stream = OrDie(backend.CreateStream());
  OrDie(trained.SetWeights(adapter, *stream));
  const auto snapshot = OrDie(AdapterSnapshot::Create(trained, backend));
  const auto take = [&](bool with_moments) {
    OrDie(snapshot->Begin(with_moments, *stream));
    while (!OrDie(snapshot->Done())) {
    }
  };
  Print("device to host, weights", Time([&] { take(false); }));
  Print("device to host, with moments", Time([&] { take(true); }));
}

int Run(const std::string& device, int32_t rank) {
  const SelectedDevice selected = OrDie(SelectDevice(device, /*num_threads=*/0));
  Backend& backend = *selected.backend;
  const ModelConfig config = OrDie(ShapeConfig("llama3-8b"));
  const KvCacheOptions pages = {.num_layers = config.num_layers,
                                .num_kv_heads = config.num_kv_heads,
                                .head_dim = config.head_dim,
                                .num_pages = 128,
                                .dtype = backend.activation_dtype()};
  const auto cache = OrDie(KvCache::Create(pages, backend));
  KvAdapterMemory memory(*cache, backend);
  const HostAdapter adapter = MakeAdapter(config, rank);
  const std::vector<AdapterModuleView> modules = Views(adapter);
  const AdapterLayout layout =
      LayOutAdapter(modules, backend.activation_dtype(), memory.page_bytes());
  std::printf(
      "{\"device\":\"%s\",\"rank\":%d,\"parameters\":%lld,\"pages\":%lld,\"bytes\":%lld,"
      "\"bytes_of_%d\":%lld}\n",
      backend.info().name.c_str(), rank, static_cast<long long>(adapter.num_parameters()),
      static_cast<long long>(layout.num_pages()), static_cast<long long>(layout.size_bytes()),
      kManyAdapters, static_cast<long long>(kManyAdapters * layout.size_bytes()));
  PinnedPages pinned(backend.allocator(), memory.page_bytes(), int64_t{1} << 30);
  OrDie(pinned.Warm(layout.size_bytes()));
  Print("identity (sha256)", Time([&] { (void)AdapterDigest(modules); }));
  const auto convert = [&] {
    return OrDie(AdapterImage::Create("bench", modules, backend.activation_dtype(), pinned));
  };
  Print("conversion", Time([&] { (void)convert(); }));
  BenchLoads(*convert(), memory, backend);
  BenchSnapshot(adapter, backend);
  return 0;
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  int32_t rank = 16;
  if (argc > 3 || (argc > 2 && (!absl::SimpleAtoi(argv[2], &rank) || rank < 1 || rank > 4096))) {
    std::fprintf(stderr, "usage: bench_adapters [cpu|cuda:N [RANK 1..4096]]\n");
    return 1;
  }
  return lorad::bench::Run(argc > 1 ? argv[1] : "auto", rank);
}
