#include "tests/bench/bench_train_flops.h"

#include <vector>

#include "engine/model/modules.h"

namespace lorad::bench {
namespace {

// Of a forward pass through one layer.
struct LayerFlops {
  double linears = 0, adapters = 0, attention = 0;
  double down = 0;  // among linears and adapters: the down projection's

  double total() const { return linears + adapters + attention; }
};

std::vector<LayerFlops> CountLayers(const ModelConfig& config, const HostAdapter& adapter,
                                    int64_t batch, int64_t seq) {
  const double tokens = static_cast<double>(batch) * static_cast<double>(seq);
  const double pairs = tokens * static_cast<double>(seq + 1) / 2;
  LayerFlops frozen;
  frozen.attention = 4 * pairs * static_cast<double>(config.q_features());
  for (const Projection p : kAllProjections) {
    const auto parameters = static_cast<double>(InFeatures(config, p) * OutFeatures(config, p));
    frozen.linears += 2 * parameters * tokens;
    if (p == Projection::kDown) frozen.down = 2 * parameters * tokens;
  }
  std::vector<LayerFlops> layers(config.num_layers, frozen);
  for (const AdapterModule& module : adapter.modules) {
    const double flops = 2 * static_cast<double>(module.a.size() + module.b.size()) * tokens;
    layers[module.id.layer].adapters += flops;
    if (module.id.projection == Projection::kDown) layers[module.id.layer].down += flops;
  }
  return layers;
}

// The layers that ModelPass computes again: whole segments, each without its last layer's down
// projection, whose output nobody asks for; the last segment is still there.
double CountRecompute(const std::vector<LayerFlops>& layers, int64_t lowest,
                      const LayerSegments& segments) {
  double flops = 0;
  for (int64_t layer = segments.Begin(lowest); !segments.IsLast(layer); ++layer) {
    flops += layers[layer].total();
    if (layer + 1 == segments.End(layer)) flops -= layers[layer].down;
  }
  return flops;
}

}  // namespace

StepFlops CountStepFlops(const ModelConfig& config, const HostAdapter& adapter,
                         const ActivationCheckpointing& checkpointing, int64_t batch, int64_t seq) {
  const std::vector<LayerFlops> layers = CountLayers(config, adapter, batch, seq);
  const int64_t lowest = adapter.modules.front().id.layer;  // they are in ascending order
  StepFlops flops;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const bool backward = i >= lowest;
    flops.linears += (backward ? 2 : 1) * layers[i].linears;
    flops.adapters += 3 * layers[i].adapters;
    flops.attention += (backward ? 3.5 : 1) * layers[i].attention;
  }
  flops.head = 4 * static_cast<double>(config.vocab_size * config.hidden_size) *
               static_cast<double>(batch * (seq - 1));
  flops.recompute = CountRecompute(layers, lowest, LayerSegments(config.num_layers, checkpointing));
  return flops;
}

}  // namespace lorad::bench
