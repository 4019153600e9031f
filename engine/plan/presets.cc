#include "engine/plan/presets.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/modules.h"

namespace lorad {
namespace {

struct Preset {
  const char* name;
  ModelFamily family;
  int64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, context;
  double theta, eps;
  double rope_factor;  // 1: not scaled
  bool tied;
};

constexpr auto kLlama = ModelFamily::kLlama;
constexpr auto kQwen2 = ModelFamily::kQwen2;
constexpr Preset kPresets[] = {
    {"llama-7b", kLlama, 32000, 4096, 11008, 32, 32, 32, 128, 2048, 1e4, 1e-6, 1, false},
    {"llama-13b", kLlama, 32000, 5120, 13824, 40, 40, 40, 128, 2048, 1e4, 1e-6, 1, false},
    {"llama-33b", kLlama, 32000, 6656, 17920, 60, 52, 52, 128, 2048, 1e4, 1e-6, 1, false},
    {"llama-65b", kLlama, 32000, 8192, 22016, 80, 64, 64, 128, 2048, 1e4, 1e-5, 1, false},
    {"llama-2-7b", kLlama, 32000, 4096, 11008, 32, 32, 32, 128, 4096, 1e4, 1e-5, 1, false},
    {"llama-2-13b", kLlama, 32000, 5120, 13824, 40, 40, 40, 128, 4096, 1e4, 1e-5, 1, false},
    {"llama-2-70b", kLlama, 32000, 8192, 28672, 80, 64, 8, 128, 4096, 1e4, 1e-5, 1, false},
    {"llama-3-8b", kLlama, 128256, 4096, 14336, 32, 32, 8, 128, 8192, 5e5, 1e-5, 1, false},
    {"llama-3-70b", kLlama, 128256, 8192, 28672, 80, 64, 8, 128, 8192, 5e5, 1e-5, 1, false},
    {"llama-3.2-1b", kLlama, 128256, 2048, 8192, 16, 32, 8, 64, 131072, 5e5, 1e-5, 32, true},
    {"llama-3.2-3b", kLlama, 128256, 3072, 8192, 28, 24, 8, 128, 131072, 5e5, 1e-5, 32, true},
    {"qwen2.5-0.5b", kQwen2, 151936, 896, 4864, 24, 14, 2, 64, 32768, 1e6, 1e-6, 1, true},
    {"qwen2.5-1.5b", kQwen2, 151936, 1536, 8960, 28, 12, 2, 128, 32768, 1e6, 1e-6, 1, true},
    {"qwen2.5-3b", kQwen2, 151936, 2048, 11008, 36, 16, 2, 128, 32768, 1e6, 1e-6, 1, true},
    {"qwen2.5-7b", kQwen2, 152064, 3584, 18944, 28, 28, 4, 128, 32768, 1e6, 1e-6, 1, false},
    {"qwen2.5-14b", kQwen2, 152064, 5120, 13824, 48, 40, 8, 128, 32768, 1e6, 1e-5, 1, false},
    {"qwen2.5-32b", kQwen2, 152064, 5120, 27648, 64, 40, 8, 128, 32768, 1e6, 1e-5, 1, false},
    {"qwen2.5-72b", kQwen2, 152064, 8192, 29568, 80, 64, 8, 128, 32768, 1e6, 1e-5, 1, false},
};

ModelConfig ConfigOf(const Preset& preset) {
  ModelConfig config;
  config.family = preset.family;
  config.architecture = preset.family == kQwen2 ? "Qwen2ForCausalLM" : "LlamaForCausalLM";
  config.hidden_size = preset.hidden;
  config.intermediate_size = preset.intermediate;
  config.num_layers = preset.layers;
  config.num_heads = preset.heads;
  config.num_kv_heads = preset.kv_heads;
  config.head_dim = preset.head_dim;
  config.vocab_size = preset.vocab;
  config.max_position_embeddings = preset.context;
  config.rms_norm_eps = preset.eps;
  config.rope.theta = preset.theta;
  if (preset.rope_factor > 1) {
    config.rope.type = RopeConfig::Type::kLlama3;
    config.rope.factor = preset.rope_factor;
    config.rope.original_max_position_embeddings = 8192;
  }
  config.qkv_bias = preset.family == kQwen2;
  config.tie_word_embeddings = preset.tied;
  return config;
}

struct Bounded {
  const char* name;
  int64_t value, bound;
};

double ApproximateParameters(const ModelConfig& config) {
  const double hidden = static_cast<double>(config.hidden_size);
  const double heads = static_cast<double>(config.num_heads + config.num_kv_heads) *
                       static_cast<double>(config.head_dim);
  const double layer =
      2 * hidden * heads + 3 * hidden * static_cast<double>(config.intermediate_size);
  return 2 * hidden * static_cast<double>(config.vocab_size) +
         static_cast<double>(config.num_layers) * layer;
}

}  // namespace

absl::StatusOr<ModelConfig> FindPreset(const std::string& name) {
  const auto preset = std::find_if(std::begin(kPresets), std::end(kPresets),
                                   [&](const Preset& p) { return name == p.name; });
  if (preset != std::end(kPresets)) return ConfigOf(*preset);
  return absl::NotFoundError(absl::StrCat("no model preset \"", name, "\"; known are ",
                                          absl::StrJoin(PresetNames(), ", "),
                                          ", or give the path of a config.json"));
}

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

int64_t LinearParameterCount(const ModelConfig& config) {
  int64_t layer = 0;
  for (const Projection p : kAllProjections)
    layer += InFeatures(config, p) * OutFeatures(config, p);
  return config.num_layers * layer;
}

int64_t ParameterCount(const ModelConfig& config) {
  int64_t layer = 2 * config.hidden_size;  // norms
  for (const Projection p : kAllProjections)
    if (HasBias(config, p)) layer += OutFeatures(config, p);
  const int64_t matrices = config.tie_word_embeddings ? 1 : 2;  // embedding, head
  return LinearParameterCount(config) + config.num_layers * layer + config.hidden_size +
         matrices * config.vocab_size * config.hidden_size;
}

absl::Status CheckPlannable(const ModelConfig& config) {
  // Far beyond any model, and small enough for every product below.
  const Bounded dimensions[] = {{"hidden_size", config.hidden_size, int64_t{1} << 20},
                                {"intermediate_size", config.intermediate_size, int64_t{1} << 22},
                                {"num_hidden_layers", config.num_layers, int64_t{1} << 14},
                                {"num_attention_heads", config.num_heads, int64_t{1} << 14},
                                {"num_key_value_heads", config.num_kv_heads, config.num_heads},
                                {"head_dim", config.head_dim, int64_t{1} << 14},
                                {"vocab_size", config.vocab_size, int64_t{1} << 26}};
  for (const auto& [name, value, bound] : dimensions)
    if (value < 1 || value > bound)
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is ", value, "; it must be in [1, ", bound, "]"));
  if (config.num_heads % config.num_kv_heads != 0)
    return absl::InvalidArgumentError(absl::StrCat("num_key_value_heads is ", config.num_kv_heads,
                                                   "; it must divide num_attention_heads, ",
                                                   config.num_heads));
  constexpr double kMostParameters = 1e14;
  if (const double parameters = ApproximateParameters(config); parameters > kMostParameters)
    return absl::InvalidArgumentError(absl::StrCat("the model has ", parameters,
                                                   " parameters; at most ", kMostParameters,
                                                   " can be planned for"));
  return absl::OkStatus();
}

}  // namespace lorad
