#include "tests/support/tiny_model.h"

#include <cstring>
#include <fstream>

#include "engine/core/check.h"
#include "engine/core/float16.h"
#include "engine/core/philox.h"
#include "engine/io/safetensors.h"
#include "engine/lora/targets.h"
#include "engine/model/modules.h"
#include "gtest/gtest.h"

namespace lorad {
namespace {

template <typename T, typename Convert>
std::string Stored(const std::vector<float>& values, Convert convert) {
  std::string bytes(values.size() * sizeof(T), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    const T value = convert(values[i]);
    std::memcpy(&bytes[i * sizeof(T)], &value, sizeof(T));
  }
  return bytes;
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace

std::vector<float> RandomValues(int64_t count, float scale, uint64_t seed) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    const PhiloxBlock block = Philox4x32(seed, static_cast<uint32_t>(i), 0, 0, 0);
    values[i] = ToFloat(ToBFloat16((2 * UniformFloat(block.words[0]) - 1) * scale));
  }
  return values;
}

TinyModel::TinyModel(const TinyModelOptions& o) {
  const bool llama = o.architecture == "LlamaForCausalLM";
  config = {{"architectures", "[\"" + o.architecture + "\"]"},
            {"model_type", llama ? "\"llama\"" : "\"qwen2\""},
            {"hidden_size", std::to_string(o.hidden)},
            {"intermediate_size", std::to_string(o.intermediate)},
            {"num_hidden_layers", std::to_string(o.layers)},
            {"num_attention_heads", std::to_string(o.heads)},
            {"num_key_value_heads", std::to_string(o.kv_heads)},
            {"head_dim", std::to_string(o.head_dim)},
            {"vocab_size", std::to_string(o.vocab)},
            {"max_position_embeddings", "256"},
            {"rms_norm_eps", "1e-5"},
            {"rope_theta", "10000.0"},
            {"hidden_act", "\"silu\""},
            {"tie_word_embeddings", o.tied ? "true" : "false"}};
  if (o.attention_bias) config["attention_bias"] = "true";
  if (o.mlp_bias) config["mlp_bias"] = "true";

  uint64_t seed = o.seed << 32;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float centre,
                       float scale) {
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    std::vector<float> values = RandomValues(count, scale, ++seed);
    for (float& value : values) value = ToFloat(ToBFloat16(value + centre));
    Set(name, std::move(shape), values, o.dtype);
  };
  const ModelConfig parsed = ParsedConfig();
  add("model.embed_tokens.weight", {o.vocab, o.hidden}, 0, 1);
  if (!o.tied) add("lm_head.weight", {o.vocab, o.hidden}, 0, 0.5f);
  add("model.norm.weight", {o.hidden}, 1, 0.25f);
  for (int32_t layer = 0; layer < o.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    add(prefix + "input_layernorm.weight", {o.hidden}, 1, 0.25f);
    add(prefix + "post_attention_layernorm.weight", {o.hidden}, 1, 0.25f);
    for (const Projection projection : kAllProjections) {
      const std::string path = ModulePath({layer, projection});
      const int64_t out = OutFeatures(parsed, projection);
      const bool bias = projection < Projection::kO    ? parsed.qkv_bias
                        : projection == Projection::kO ? parsed.o_bias
                                                       : parsed.mlp_bias;
      add(path + ".weight", {out, InFeatures(parsed, projection)}, 0, 0.25f);
      if (bias) add(path + ".bias", {out}, 0, 0.5f);
    }
  }
}

ModelConfig TinyModel::ParsedConfig() const {
  const absl::StatusOr<ModelConfig> parsed = ParseModelConfig(ConfigJson());
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  LORAD_CHECK(parsed.ok());
  return *parsed;
}

std::string TinyModel::ConfigJson() const {
  std::string json = "{";
  for (const auto& [key, value] : config)
    json += (json.size() > 1 ? ",\"" : "\"") + key + "\":" + value;
  return json + "}";
}

void TinyModel::Set(const std::string& name, std::vector<int64_t> shape,
                    const std::vector<float>& values, DType dtype) {
  Tensor& tensor = tensors[name];
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  if (dtype == DType::kF16) {
    tensor.bytes = Stored<Float16>(values, ToFloat16);
  } else if (dtype == DType::kBF16) {
    tensor.bytes = Stored<BFloat16>(values, ToBFloat16);
  } else {
    LORAD_CHECK(dtype == DType::kF32);
    tensor.bytes = Stored<float>(values, [](float value) { return value; });
  }
}

std::vector<float> TinyModel::Values(const std::string& name) const {
  const Tensor& tensor = tensors.at(name);
  std::vector<float> values(tensor.bytes.size() / SizeOf(tensor.dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const char* at = tensor.bytes.data() + i * SizeOf(tensor.dtype);
    uint16_t bits = 0;
    std::memcpy(&bits, at, sizeof(bits));
    if (tensor.dtype == DType::kF32) {
      std::memcpy(&values[i], at, sizeof(float));
    } else {
      values[i] = tensor.dtype == DType::kF16 ? ToFloat(Float16{bits}) : ToFloat(BFloat16{bits});
    }
  }
  return values;
}

void TinyModel::Write(const std::string& dir, int shards) const {
  WriteFile(dir + "/config.json", ConfigJson());
  std::vector<std::vector<SafetensorsEntry>> files(shards);
  std::string weight_map;
  size_t next = 0;
  const auto file_name = [&](size_t shard) {
    return shards == 1 ? std::string("model.safetensors")
                       : "model-" + std::to_string(shard) + ".safetensors";
  };
  for (const auto& [name, tensor] : tensors) {
    SafetensorsEntry entry;
    entry.name = name;
    entry.dtype = tensor.dtype;
    entry.shape = tensor.shape;
    entry.data = tensor.bytes.data();
    entry.size_bytes = static_cast<int64_t>(tensor.bytes.size());
    const size_t shard = next++ % shards;
    weight_map += (weight_map.empty() ? "\"" : ",\"") + name + "\":\"" + file_name(shard) + "\"";
    files[shard].push_back(entry);
  }
  for (int shard = 0; shard < shards; ++shard) {
    const absl::StatusOr<std::string> bytes =
        SerializeSafetensors(files[shard], {{"format", "pt"}});
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    WriteFile(dir + "/" + file_name(shard), *bytes);
  }
  if (shards > 1)
    WriteFile(dir + "/model.safetensors.index.json",
              "{\"metadata\":{},\"weight_map\":{" + weight_map + "}}");
}

HostAdapter RandomAdapter(const ModelConfig& config, const std::vector<int32_t>& ranks,
                          uint64_t seed) {
  HostAdapter adapter;
  adapter.config.r = ranks[0];
  adapter.config.lora_alpha = 2.0 * ranks[0];
  const absl::StatusOr<std::vector<ModuleId>> modules = MatchTargets(config, {"all-linear"});
  LORAD_CHECK(modules.ok());
  adapter.config.target_modules = ShortestTargets(config, *modules);
  for (const ModuleId id : *modules) {
    AdapterModule module;
    module.id = id;
    module.rank = ranks[id.index() % ranks.size()];
    module.alpha = adapter.config.lora_alpha;
    module.scaling = static_cast<float>(module.alpha / module.rank);
    const uint64_t module_seed = (seed << 32) + 2 * static_cast<uint64_t>(id.index());
    module.a = RandomValues(module.rank * InFeatures(config, id.projection), 0.25f, module_seed);
    module.b =
        RandomValues(module.rank * OutFeatures(config, id.projection), 0.25f, module_seed + 1);
    adapter.modules.push_back(std::move(module));
  }
  return adapter;
}

}  // namespace lorad
