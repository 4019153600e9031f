#include "tests/bench/shapes.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "engine/model/random_model.h"
#include "engine/plan/presets.h"
#include "engine/quant/quant.h"

namespace lorad::bench {
namespace {

// For tests of a bench itself.
ModelConfig Tiny() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.vocab_size = 512;
  config.hidden_size = 128;
  config.intermediate_size = 352;
  config.num_layers = 4;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 32;
  config.rms_norm_eps = 1e-5;
  return config;
}

bool HoldsCheckpoint(const std::string& folder) {
  std::error_code ignored;
  return std::filesystem::exists(folder + "/model.safetensors", ignored) ||
         std::filesystem::exists(folder + "/model.safetensors.index.json", ignored);
}

}  // namespace

absl::StatusOr<ModelConfig> ShapeConfig(const std::string& shape) {
  if (shape.find('/') == std::string::npos) {
    ModelConfig config = Tiny();
    if (shape != "tiny") {
      ASSIGN_OR_RETURN(config, FindPreset(shape));
    }
    config.max_position_embeddings = 131072;  // seq is the benchmark's to choose
    return config;
  }
  absl::string_view folder = shape;
  absl::ConsumeSuffix(&folder, "/config.json");
  return LoadModelConfig(std::string(folder));
}

absl::StatusOr<std::shared_ptr<const Model>> ShapeModel(const std::string& shape,
                                                        const std::string& base, uint64_t seed,
                                                        Backend& backend,
                                                        const ModelOptions& options) {
  ASSIGN_OR_RETURN(const QuantSpec quant, ParseQuantSpec(base == "bf16" ? "none" : base));
  if (HoldsCheckpoint(shape)) return Model::Load(shape, quant, backend, options);
  ASSIGN_OR_RETURN(const ModelConfig config, ShapeConfig(shape));
  return RandomModel(config, quant, seed, backend, options);
}

absl::Status CaseModel::Take(const std::string& shape, const std::string& base, uint64_t seed,
                             Backend& backend, const ModelOptions& options) {
  const std::string key = absl::StrCat(shape, " ", base, " ", seed, " ", options.quant_head);
  if (model_ != nullptr && key == key_) return absl::OkStatus();
  model_.reset();
  const absl::Time begin = absl::Now();
  ASSIGN_OR_RETURN(model_, ShapeModel(shape, base, seed, backend, options));
  seconds_ = absl::ToDoubleSeconds(absl::Now() - begin);
  key_ = key;
  return absl::OkStatus();
}

}  // namespace lorad::bench
