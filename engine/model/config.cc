#include "engine/model/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/model/json_object.h"
#include "nlohmann/json.hpp"

namespace lorad {
namespace {

// Bounds far above any published model, low enough that no product of two or three wraps 63 bits.
constexpr int64_t kMaxHidden = 1 << 17;
constexpr int64_t kMaxIntermediate = 1 << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxPositions = 1 << 30;

absl::Status NotSupported(const JsonObject& json, const char* key, const std::string& hint) {
  const nlohmann::json* value = json.Find(key);
  return absl::UnimplementedError(absl::StrCat(json.where(), ": \"", key,
                                               "\": ", value ? ShortJson(*value) : "null",
                                               " is not supported; ", hint));
}

absl::Status ReadFamily(const JsonObject& json, ModelConfig& config) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, json.Strings("architectures"));
  if (names.empty())
    return json.Wrong("architectures", "a list with LlamaForCausalLM or Qwen2ForCausalLM");
  config.architecture = names[0];
  if (names[0] == "LlamaForCausalLM") {
    config.family = ModelFamily::kLlama;
  } else if (names[0] == "Qwen2ForCausalLM") {
    config.family = ModelFamily::kQwen2;
  } else {
    return NotSupported(json, "architectures", "supported: LlamaForCausalLM, Qwen2ForCausalLM");
  }
  const char* type = config.family == ModelFamily::kLlama ? "llama" : "qwen2";
  ASSIGN_OR_RETURN(const std::string model_type, json.String("model_type", type));
  if (model_type != type)
    return json.Wrong("model_type", absl::StrCat("\"", type, "\" for ", config.architecture));
  return absl::OkStatus();
}

absl::Status ReadShape(const JsonObject& json, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.hidden_size, json.Int("hidden_size", 1, kMaxHidden));
  ASSIGN_OR_RETURN(config.intermediate_size, json.Int("intermediate_size", 1, kMaxIntermediate));
  ASSIGN_OR_RETURN(config.num_layers, json.Int("num_hidden_layers", 1, kMaxLayers));
  ASSIGN_OR_RETURN(config.num_heads, json.Int("num_attention_heads", 1, kMaxHeads));
  ASSIGN_OR_RETURN(config.num_kv_heads,
                   json.Int("num_key_value_heads", 1, config.num_heads, config.num_heads));
  if (config.num_heads % config.num_kv_heads != 0)
    return json.Wrong("num_key_value_heads",
                      absl::StrCat("a divisor of num_attention_heads, ", config.num_heads));
  if (json.Find("head_dim") == nullptr && config.hidden_size % config.num_heads != 0)
    return json.Wrong("head_dim",
                      absl::StrCat("given, as hidden_size ", config.hidden_size,
                                   " is not a multiple of num_attention_heads ", config.num_heads));
  ASSIGN_OR_RETURN(config.head_dim,
                   json.Int("head_dim", 2, kMaxHeadDim, config.hidden_size / config.num_heads));
  if (config.head_dim % 2 != 0 || config.head_dim > kMaxHeadDim)
    return absl::InvalidArgumentError(absl::StrCat(json.where(), ": head_dim is ", config.head_dim,
                                                   "; it must be even and at most ", kMaxHeadDim));
  ASSIGN_OR_RETURN(config.vocab_size, json.Int("vocab_size", 1, kMaxVocab));
  ASSIGN_OR_RETURN(config.max_position_embeddings,
                   json.Int("max_position_embeddings", 1, kMaxPositions));
  ASSIGN_OR_RETURN(config.rms_norm_eps, json.Number("rms_norm_eps", 1e-20, 1.0, 1e-6));
  return absl::OkStatus();
}

absl::Status ReadBiases(const JsonObject& json, ModelConfig& config) {
  if (config.family == ModelFamily::kQwen2) {
    config.qkv_bias = true;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(config.qkv_bias, json.Bool("attention_bias", false));
  config.o_bias = config.qkv_bias;
  ASSIGN_OR_RETURN(config.mlp_bias, json.Bool("mlp_bias", false));
  return absl::OkStatus();
}

absl::Status ReadLlama3Rope(const JsonObject& json, RopeConfig& rope) {
  rope.type = RopeConfig::Type::kLlama3;
  ASSIGN_OR_RETURN(rope.low_freq_factor, json.Number("low_freq_factor", 1e-6, 1e6));
  ASSIGN_OR_RETURN(rope.high_freq_factor, json.Number("high_freq_factor", 1e-6, 1e6));
  if (rope.high_freq_factor <= rope.low_freq_factor)
    return json.Wrong("high_freq_factor",
                      absl::StrCat("above low_freq_factor, ", rope.low_freq_factor));
  ASSIGN_OR_RETURN(rope.original_max_position_embeddings,
                   json.Int("original_max_position_embeddings", 1, kMaxPositions));
  return absl::OkStatus();
}

// One object of rope settings: `rope_parameters`, or `rope_scaling` with theta beside it.
absl::StatusOr<RopeConfig> ParseRope(const JsonObject& json, double theta) {
  RopeConfig rope;
  ASSIGN_OR_RETURN(rope.theta, json.Number("rope_theta", 1.0, 1e12, theta));
  // `type` is the older name of `rope_type`.
  const char* key =
      json.Find("rope_type") != nullptr || json.Find("type") == nullptr ? "rope_type" : "type";
  ASSIGN_OR_RETURN(const std::string type, json.String(key, "default"));
  if (type != "default" && type != "linear" && type != "llama3")
    return NotSupported(json, key, "supported: default, linear, llama3");
  ASSIGN_OR_RETURN(const double partial, json.Number("partial_rotary_factor", 0, 1, 1));
  if (partial != 1) return NotSupported(json, "partial_rotary_factor", "supported: 1");
  if (type == "default") return rope;
  ASSIGN_OR_RETURN(rope.factor, json.Number("factor", 1, 1e6));
  if (type == "linear") {
    rope.type = RopeConfig::Type::kLinear;
  } else {
    RETURN_IF_ERROR(ReadLlama3Rope(json, rope));
  }
  return rope;
}

absl::Status ReadRope(const JsonObject& json, ModelConfig& config) {
  ASSIGN_OR_RETURN(const double partial, json.Number("partial_rotary_factor", 0, 1, 1));
  if (partial != 1) return NotSupported(json, "partial_rotary_factor", "supported: 1");
  ASSIGN_OR_RETURN(const double theta, json.Number("rope_theta", 1.0, 1e12, 10000.0));
  config.rope.theta = theta;
  ASSIGN_OR_RETURN(const std::optional<JsonObject> v5, json.Object("rope_parameters"));
  ASSIGN_OR_RETURN(const std::optional<JsonObject> v4, json.Object("rope_scaling"));
  // A file that says it in both spellings must say the same: one of them would be ignored.
  if (v5.has_value() && v4.has_value() &&
      *json.Find("rope_parameters") != *json.Find("rope_scaling"))
    return json.Wrong("rope_scaling", "absent or equal to rope_parameters");
  if (!v5.has_value() && !v4.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(config.rope, ParseRope(v5.has_value() ? *v5 : *v4, theta));
  if (json.Find("rope_theta") != nullptr && config.rope.theta != theta)
    return json.Wrong("rope_theta", absl::StrCat("absent or equal to that of rope_parameters, ",
                                                 config.rope.theta));
  return absl::OkStatus();
}

// Settings that change the maths and have no counterpart here.
absl::Status RefuseUnsupported(const JsonObject& json) {
  ASSIGN_OR_RETURN(const std::string activation, json.String("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish")
    return NotSupported(json, "hidden_act", "supported: silu");
  for (const char* key : {"use_sliding_window", "use_mrope", "is_encoder_decoder",
                          "add_cross_attention", "use_bidirectional_attention"}) {
    ASSIGN_OR_RETURN(const bool used, json.Bool(key, false));
    if (used) return NotSupported(json, key, "set it to false if the model allows it");
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> layer_types, json.Strings("layer_types"));
  for (const std::string& type : layer_types) {
    if (type != "full_attention")
      return NotSupported(json, "layer_types", "supported: full_attention in every layer");
  }
  ASSIGN_OR_RETURN(const std::optional<JsonObject> quant, json.Object("quantization_config"));
  if (!quant.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string method, quant->String("quant_method", "bitsandbytes"));
  constexpr char kHint[] = "supported: bitsandbytes in 4 bits, or 16-bit weights";
  if (method != "bitsandbytes") return NotSupported(*quant, "quant_method", kHint);
  ASSIGN_OR_RETURN(const bool eight_bits, quant->Bool("load_in_8bit", false));
  if (eight_bits) return NotSupported(*quant, "load_in_8bit", kHint);
  ASSIGN_OR_RETURN(const bool four_bits, quant->Bool("load_in_4bit", false));
  if (!four_bits) return NotSupported(*quant, "load_in_4bit", kHint);
  return absl::OkStatus();
}

// -1 when absent; some files say "none" by -1.
absl::StatusOr<int32_t> TokenId(const JsonObject& json, const char* key, int64_t vocab_size) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> ids, json.IntOrInts(key, -1, vocab_size - 1));
  return ids.empty() ? -1 : static_cast<int32_t>(ids[0]);
}

absl::Status ReadTokenIds(const JsonObject& json, const std::optional<JsonObject>& generation,
                          ModelConfig& config) {
  ASSIGN_OR_RETURN(config.bos_token_id, TokenId(json, "bos_token_id", config.vocab_size));
  // Padding never enters the model, and base models are published whose pad id was added beyond
  // the embedding: such an id means none.
  ASSIGN_OR_RETURN(const int32_t pad, TokenId(json, "pad_token_id", INT32_MAX));
  if (pad < config.vocab_size) config.pad_token_id = pad;
  const bool from_generation =
      generation.has_value() && generation->Find("eos_token_id") != nullptr;
  const JsonObject& source = from_generation ? *generation : json;
  ASSIGN_OR_RETURN(const std::vector<int64_t> eos,
                   source.IntOrInts("eos_token_id", -1, config.vocab_size - 1));
  for (const int64_t id : eos) {
    if (id >= 0) config.eos_token_ids.push_back(static_cast<int32_t>(id));
  }
  if (generation.has_value() && config.bos_token_id < 0) {
    ASSIGN_OR_RETURN(config.bos_token_id, TokenId(*generation, "bos_token_id", config.vocab_size));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ParseConfig(const std::string& config_json,
                                        const std::string& config_where,
                                        const std::string& generation_json,
                                        const std::string& generation_where) {
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(config_json, config_where));
  ASSIGN_OR_RETURN(const JsonObject json, JsonObject::Of(document, config_where));
  nlohmann::json generation_document;
  std::optional<JsonObject> generation;
  if (!generation_json.empty()) {
    ASSIGN_OR_RETURN(generation_document, ParseJson(generation_json, generation_where));
    ASSIGN_OR_RETURN(generation, JsonObject::Of(generation_document, generation_where));
  }
  ModelConfig config;
  RETURN_IF_ERROR(ReadFamily(json, config));
  RETURN_IF_ERROR(RefuseUnsupported(json));
  RETURN_IF_ERROR(ReadShape(json, config));
  RETURN_IF_ERROR(ReadBiases(json, config));
  RETURN_IF_ERROR(ReadRope(json, config));
  ASSIGN_OR_RETURN(config.tie_word_embeddings, json.Bool("tie_word_embeddings", false));
  RETURN_IF_ERROR(ReadTokenIds(json, generation, config));
  return config;
}

// Source: transformers, modeling_rope_utils.py, _compute_llama3_parameters; fp32 throughout.
float Llama3Frequency(const RopeConfig& rope, float inv_freq) {
  const float old_length = static_cast<float>(rope.original_max_position_embeddings);
  const float factor = static_cast<float>(rope.factor);
  const float low = static_cast<float>(rope.low_freq_factor);
  const float high = static_cast<float>(rope.high_freq_factor);
  const float wavelength = static_cast<float>(2 * std::numbers::pi) / inv_freq;
  if (wavelength > old_length / low) return inv_freq / factor;
  if (wavelength < old_length / high) return inv_freq;
  const float smooth = (old_length / wavelength - low) / (high - low);
  return (1 - smooth) * inv_freq / factor + smooth * inv_freq;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& config_json,
                                             const std::string& generation_config_json) {
  return ParseConfig(config_json, "config.json", generation_config_json, "generation_config.json");
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_dir) {
  const std::string config_path = JoinPath(model_dir, "config.json");
  const std::string generation_path = JoinPath(model_dir, "generation_config.json");
  ASSIGN_OR_RETURN(const std::string config, ReadFile(config_path));
  absl::StatusOr<std::string> generation = ReadFile(generation_path);
  if (absl::IsNotFound(generation.status())) generation = std::string();
  RETURN_IF_ERROR(generation.status());
  return ParseConfig(config, config_path, *generation, generation_path);
}

std::vector<float> RopeInverseFrequencies(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  std::vector<float> frequencies;
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(config.head_dim);
    // transformers: 1.0 / (base ** exponent), each rounded to fp32.
    const float power = static_cast<float>(std::pow(rope.theta, double{exponent}));
    float inv_freq = 1.0f / power;
    if (rope.type == RopeConfig::Type::kLinear) inv_freq /= static_cast<float>(rope.factor);
    if (rope.type == RopeConfig::Type::kLlama3) inv_freq = Llama3Frequency(rope, inv_freq);
    frequencies.push_back(inv_freq);
  }
  return frequencies;
}

}  // namespace lorad
