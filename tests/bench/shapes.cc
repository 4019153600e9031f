#include "tests/bench/shapes.h"

#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "engine/model/random_model.h"
#include "engine/quant/quant.h"

namespace lorad::bench {
namespace {

ModelConfig Llama(int64_t vocab, int64_t hidden, int64_t intermediate, int64_t layers,
                  int64_t heads, int64_t kv_heads) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.vocab_size = vocab;
  config.hidden_size = hidden;
  config.intermediate_size = intermediate;
  config.num_layers = layers;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = hidden / heads;
  config.max_position_embeddings = 131072;  // seq is the benchmark's to choose
  config.rms_norm_eps = 1e-5;
  return config;
}

ModelConfig Llama3(int64_t hidden, int64_t intermediate, int64_t layers) {
  ModelConfig config = Llama(128256, hidden, intermediate, layers, 32, 8);
  config.rope.theta = 500000;
  return config;
}

ModelConfig Llama32With1B() {
  ModelConfig config = Llama3(2048, 8192, 16);
  config.rope.type = RopeConfig::Type::kLlama3;
  config.rope.factor = 32;
  config.rope.original_max_position_embeddings = 8192;
  config.tie_word_embeddings = true;
  return config;
}

bool HoldsCheckpoint(const std::string& folder) {
  std::error_code ignored;
  return std::filesystem::exists(folder + "/model.safetensors", ignored) ||
         std::filesystem::exists(folder + "/model.safetensors.index.json", ignored);
}

}  // namespace

absl::StatusOr<ModelConfig> ShapeConfig(const std::string& shape) {
  if (shape == "llama-7b") return Llama(32000, 4096, 11008, 32, 32, 32);
  if (shape == "llama-65b") return Llama(32000, 8192, 22016, 80, 64, 64);
  if (shape == "llama3-8b") return Llama3(4096, 14336, 32);
  if (shape == "llama3.2-1b") return Llama32With1B();
  if (shape == "tiny") return Llama(512, 128, 352, 4, 4, 2);
  if (shape.find('/') == std::string::npos)
    return absl::InvalidArgumentError(
        absl::StrCat("shape is \"", shape,
                     "\"; known are llama-7b, llama-65b, llama3-8b, llama3.2-1b, tiny, and "
                     "PATH/config.json"));
  absl::string_view folder = shape;
  absl::ConsumeSuffix(&folder, "/config.json");
  return LoadModelConfig(std::string(folder));
}

absl::StatusOr<std::shared_ptr<const Model>> ShapeModel(const std::string& shape,
                                                        const std::string& base, uint64_t seed,
                                                        Backend& backend) {
  ASSIGN_OR_RETURN(const QuantSpec quant, ParseQuantSpec(base == "bf16" ? "none" : base));
  if (HoldsCheckpoint(shape)) return Model::Load(shape, quant, backend);
  ASSIGN_OR_RETURN(const ModelConfig config, ShapeConfig(shape));
  return RandomModel(config, quant, seed, backend);
}

absl::Status CaseModel::Take(const std::string& shape, const std::string& base, uint64_t seed,
                             Backend& backend) {
  const std::string key = absl::StrCat(shape, " ", base, " ", seed);
  if (model_ != nullptr && key == key_) return absl::OkStatus();
  model_.reset();
  const absl::Time begin = absl::Now();
  ASSIGN_OR_RETURN(model_, ShapeModel(shape, base, seed, backend));
  seconds_ = absl::ToDoubleSeconds(absl::Now() - begin);
  key_ = key;
  return absl::OkStatus();
}

}  // namespace lorad::bench
