#include "tests/bench/random_adapters.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/core/philox.h"
#include "engine/model/modules.h"

namespace lorad::bench {
namespace {

// Large enough for the places to differ, small enough to stay in a processor's cache.
constexpr int64_t kBlockElements = int64_t{1} << 20;
constexpr char kPrefix[] = "random-adapter/";

}  // namespace

RandomAdapters::RandomAdapters(const ModelConfig& model, int32_t rank, uint64_t seed)
    : model_(model), rank_(rank), seed_(seed), block_(kBlockElements) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 0.01f);
  for (float& value : block_) value = normal(random);
}

void RandomAdapters::Fill(std::vector<float>& values, int64_t number, uint32_t index) const {
  const auto size = static_cast<int64_t>(values.size());
  for (int64_t begin = 0, piece = 0; begin < size; ++piece) {
    const PhiloxBlock draw =
        Philox4x32(seed_, static_cast<uint32_t>(number), index, static_cast<uint32_t>(piece), 0);
    const auto from = static_cast<int64_t>(draw.words[0] % (kBlockElements / 2));
    const int64_t count = std::min(size - begin, kBlockElements - from);
    std::copy_n(block_.begin() + from, count, values.begin() + begin);
    begin += count;
  }
}

HostAdapter RandomAdapters::Make(int64_t number) const {
  HostAdapter adapter;
  adapter.config.r = rank_;
  adapter.config.lora_alpha = 2.0 * rank_;
  for (const Projection p : kAllProjections)
    adapter.config.target_modules.emplace_back(ProjectionName(p));
  std::sort(adapter.config.target_modules.begin(), adapter.config.target_modules.end());
  uint32_t index = 0;
  for (int32_t layer = 0; layer < model_.num_layers; ++layer) {
    for (const Projection p : kAllProjections) {
      AdapterModule& module = adapter.modules.emplace_back();
      module.id = {layer, p};
      module.rank = rank_;
      module.alpha = adapter.config.lora_alpha;
      module.scaling = 2;
      module.a.resize(rank_ * InFeatures(model_, p));
      module.b.resize(rank_ * OutFeatures(model_, p));
      Fill(module.a, number, index++);
      Fill(module.b, number, index++);
    }
  }
  return adapter;
}

std::string RandomAdapters::Name(int64_t number) { return absl::StrCat(kPrefix, number); }

AdapterReader RandomAdapters::Reader() const {
  return [this](const std::string& name) -> absl::StatusOr<HostAdapter> {
    absl::string_view rest = name;
    int64_t number = 0;
    if (!absl::ConsumePrefix(&rest, kPrefix) || !absl::SimpleAtoi(rest, &number) || number < 0)
      return absl::NotFoundError(absl::StrCat(name, " is no name of RandomAdapters"));
    return Make(number);
  };
}

}  // namespace lorad::bench
