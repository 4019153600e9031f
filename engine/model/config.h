#ifndef LORAD_ENGINE_MODEL_CONFIG_H_
#define LORAD_ENGINE_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lorad {

enum class ModelFamily : uint8_t { kLlama, kQwen2 };

// Rotary embedding parameters. Source of llama3 scaling: transformers' modeling_rope_utils.
struct RopeConfig {
  enum class Type : uint8_t { kDefault, kLinear, kLlama3 };
  Type type = Type::kDefault;
  double theta = 10000;
  double factor = 1;                                 // kLinear, kLlama3
  double low_freq_factor = 1, high_freq_factor = 4;  // kLlama3
  int64_t original_max_position_embeddings = 0;      // kLlama3
};

// The part of a Hugging Face config.json that fixes the maths of a decoder. Read in the spellings
// of transformers 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype).
struct ModelConfig {
  ModelFamily family = ModelFamily::kLlama;
  std::string architecture;  // "LlamaForCausalLM"
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;  // divides num_heads
  int64_t head_dim = 0;      // even
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 0;
  RopeConfig rope;
  bool qkv_bias = false;  // qwen2: always; llama: attention_bias (then o_proj has one too)
  bool o_bias = false;
  bool mlp_bias = false;
  bool tie_word_embeddings = false;
  int32_t bos_token_id = -1;           // -1: none
  std::vector<int32_t> eos_token_ids;  // of generation_config.json if it is there, else config.json
  int32_t pad_token_id = -1;

  int64_t q_features() const { return num_heads * head_dim; }
  int64_t kv_features() const { return num_kv_heads * head_dim; }
};

// Parses the text of config.json. kUnimplemented names an unknown architecture, activation, rope
// type, or a setting that changes the maths and is not supported (sliding windows in use, ...);
// kInvalidArgument names a missing key or a value out of range.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& config_json,
                                             const std::string& generation_config_json = "");
// Reads config.json, and generation_config.json if present. kNotFound names the path.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir);

// inv_freq [head_dim / 2] with the scaling applied, in fp32 as transformers computes it.
std::vector<float> RopeInverseFrequencies(const ModelConfig& config);

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_CONFIG_H_
