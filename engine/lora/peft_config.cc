#include "engine/lora/peft_config.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/json.h"
#include "engine/lora/targets.h"
#include "engine/model/json_object.h"
#include "nlohmann/json.hpp"

namespace lorad {
namespace {

constexpr int64_t kMaxRank = 65536;
constexpr double kMinAlpha = 1e-6, kMaxAlpha = 1e9;
constexpr size_t kMaxPatterns = 16384;

absl::Status NotSupported(const JsonObject& json, const char* key, const std::string& hint) {
  return absl::UnimplementedError(absl::StrCat(
      json.where(), ": \"", key, "\": ", ShortJson(*json.Find(key)), " is not supported", hint));
}

// False, an empty list or object, and null all say "not used".
bool IsUsed(const nlohmann::json* value) {
  if (value == nullptr) return false;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_array() || value->is_object()) return !value->empty();
  return true;
}

absl::Status RefuseUnsupported(const JsonObject& json) {
  ASSIGN_OR_RETURN(const std::string type, json.String("peft_type"));
  if (type != "LORA") return NotSupported(json, "peft_type", "; supported: LORA");
  ASSIGN_OR_RETURN(const std::string task, json.String("task_type", "CAUSAL_LM"));
  if (task != "CAUSAL_LM") return NotSupported(json, "task_type", "; supported: CAUSAL_LM");
  ASSIGN_OR_RETURN(const std::string bias, json.String("bias", "none"));
  if (bias != "none") return NotSupported(json, "bias", "; supported: \"none\"");
  // Each of these changes what the adapter computes.
  for (const char* key : {"use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora",
                          "modules_to_save", "layer_replication", "trainable_token_indices",
                          "target_parameters", "megatron_config", "alora_invocation_tokens",
                          "arrow_config", "kasa_config", "velora_config", "monteclora_config"}) {
    if (IsUsed(json.Find(key))) return NotSupported(json, key, ": it changes the maths");
  }
  // Initialisations that change the base model as well: the saved A and B alone are not the
  // adapter.
  const nlohmann::json* init = json.Find("init_lora_weights");
  if (init == nullptr || init->is_boolean()) return absl::OkStatus();
  for (const char* known : {"gaussian", "eva", "orthogonal"}) {
    if (*init == known) return absl::OkStatus();
  }
  return NotSupported(json, "init_lora_weights",
                      ": it changes the base model's weights; save the adapter with "
                      "path_initial_model_for_weight_conversion, which makes it a plain LoRA");
}

// target_modules or exclude_modules in the form that MatchTargets takes; empty when absent.
absl::StatusOr<std::vector<std::string>> ModuleNames(const JsonObject& json, const char* key) {
  const nlohmann::json* value = json.Find(key);
  if (value == nullptr || !value->is_string()) {
    ASSIGN_OR_RETURN(std::vector<std::string> names, json.Strings(key));
    for (const std::string& name : names) {
      // In a list PEFT takes it for a module's name.
      if (name.rfind("regex:", 0) == 0) return json.Wrong(key, "a list of module names");
    }
    return names;
  }
  const std::string text = value->get<std::string>();
  const std::vector<std::string> all = {"all-linear"};
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return c < 'A' || c > 'Z' ? c : c + ('a' - 'A'); });
  return lower == all[0] ? all : std::vector<std::string>{"regex:" + text};
}

// PEFT applies layers_to_transform to modules that a list matched by their end, not to those it
// names in full.
absl::Status KeepLayers(const JsonObject& json, const ModelConfig& model,
                        const std::vector<std::string>& targets, std::vector<ModuleId>& modules) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> layers,
                   json.IntOrInts("layers_to_transform", 0, model.num_layers - 1));
  const nlohmann::json* pattern = json.Find("layers_pattern");
  const bool plain_pattern = !IsUsed(pattern) || *pattern == "" || *pattern == "layers" ||
                             *pattern == nlohmann::json::array({"layers"});
  if (!plain_pattern) return NotSupported(json, "layers_pattern", "; supported: \"layers\"");
  if (layers.empty()) return absl::OkStatus();
  if (json.Find("target_modules") != nullptr && json.Find("target_modules")->is_string())
    return json.Wrong("layers_to_transform", "null when target_modules is a string");
  std::erase_if(modules, [&](ModuleId id) {
    const bool named = std::find(targets.begin(), targets.end(), ModulePath(id)) != targets.end();
    return !named && std::find(layers.begin(), layers.end(), id.layer) == layers.end();
  });
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ModuleId>> AdaptedModules(const JsonObject& json,
                                                     const ModelConfig& model) {
  ASSIGN_OR_RETURN(std::vector<std::string> targets, ModuleNames(json, "target_modules"));
  // PEFT's default for llama and qwen2.
  if (json.Find("target_modules") == nullptr) targets = {"q_proj", "v_proj"};
  absl::StatusOr<std::vector<ModuleId>> modules = MatchTargets(model, targets);
  if (!modules.ok())
    return absl::Status(
        modules.status().code(),
        absl::StrCat(json.where(), ": target_modules: ", modules.status().message()));
  RETURN_IF_ERROR(KeepLayers(json, model, targets, *modules));
  ASSIGN_OR_RETURN(const std::vector<std::string> excluded, ModuleNames(json, "exclude_modules"));
  for (const std::string& name : excluded) {
    // Excluding what is not there changes nothing.
    ASSIGN_OR_RETURN(const std::vector<ModuleId> matched, MatchTarget(model, name));
    for (const ModuleId id : matched) std::erase(*modules, id);
  }
  if (modules->empty())
    return json.Wrong("target_modules",
                      "such that modules are left after layers_to_transform and "
                      "exclude_modules");
  return modules;
}

// rank_pattern or alpha_pattern, in the order of the file: the first key that matches counts.
class ValuePatterns {
 public:
  static absl::StatusOr<ValuePatterns> Read(const nlohmann::ordered_json& document,
                                            const JsonObject& json, const char* key) {
    ValuePatterns patterns;
    ASSIGN_OR_RETURN(const std::optional<JsonObject> object, json.Object(key));
    if (!object.has_value()) return patterns;
    if (document[key].size() > kMaxPatterns)
      return json.Wrong(key, absl::StrCat("an object of at most ", kMaxPatterns, " keys"));
    for (const auto& [name, value] : document[key].items()) {
      absl::StatusOr<PathPattern> pattern = PathPattern::CompilePatternKey(name);
      if (!pattern.ok())
        return absl::InvalidArgumentError(
            absl::StrCat(object->where(), ": ", pattern.status().message()));
      patterns.patterns_.push_back({*std::move(pattern), name});
    }
    return patterns;
  }

  // The key that gives `path` its value; null: none.
  absl::StatusOr<const std::string*> KeyFor(const std::string& path) const {
    for (const auto& [pattern, name] : patterns_) {
      ASSIGN_OR_RETURN(const bool matches, pattern.Matches(path));
      if (matches) return &name;
    }
    return static_cast<const std::string*>(nullptr);
  }

 private:
  std::vector<std::pair<PathPattern, std::string>> patterns_;
};

absl::Status ReadScalings(const nlohmann::ordered_json& document, const JsonObject& json,
                          PeftConfig& config) {
  ASSIGN_OR_RETURN(const ValuePatterns ranks, ValuePatterns::Read(document, json, "rank_pattern"));
  ASSIGN_OR_RETURN(const ValuePatterns alphas,
                   ValuePatterns::Read(document, json, "alpha_pattern"));
  ASSIGN_OR_RETURN(const std::optional<JsonObject> rank_values, json.Object("rank_pattern"));
  ASSIGN_OR_RETURN(const std::optional<JsonObject> alpha_values, json.Object("alpha_pattern"));
  for (PeftModule& module : config.modules) {
    const std::string path = ModulePath(module.id);
    module.rank = config.adapter.r;
    module.alpha = config.adapter.lora_alpha;
    ASSIGN_OR_RETURN(const std::string* rank_key, ranks.KeyFor(path));
    if (rank_key != nullptr) {
      ASSIGN_OR_RETURN(const int64_t rank, rank_values->Int(rank_key->c_str(), 1, kMaxRank));
      module.rank = static_cast<int32_t>(rank);
    }
    ASSIGN_OR_RETURN(const std::string* alpha_key, alphas.KeyFor(path));
    if (alpha_key != nullptr) {
      ASSIGN_OR_RETURN(module.alpha,
                       alpha_values->Number(alpha_key->c_str(), kMinAlpha, kMaxAlpha));
    }
    const double rank = module.rank;
    module.scaling =
        static_cast<float>(module.alpha / (config.adapter.use_rslora ? std::sqrt(rank) : rank));
  }
  return absl::OkStatus();
}

// Python writes 16 for the integer and 16.0 for the float; PEFT's own files have integers.
nlohmann::json Number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

nlohmann::json TargetsJson(const std::vector<std::string>& targets) {
  if (targets.size() == 1 && targets[0].rfind("regex:", 0) == 0) return targets[0].substr(6);
  if (targets.size() == 1 && targets[0] == "all-linear") return targets[0];
  return targets;
}

}  // namespace

absl::StatusOr<PeftConfig> ParsePeftConfig(const std::string& text, const std::string& where,
                                           const ModelConfig& model) {
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(text, where));
  ASSIGN_OR_RETURN(const JsonObject json, JsonObject::Of(document, where));
  RETURN_IF_ERROR(RefuseUnsupported(json));
  PeftConfig config;
  AdapterConfig& adapter = config.adapter;
  ASSIGN_OR_RETURN(const int64_t r, json.Int("r", 1, kMaxRank));
  adapter.r = static_cast<int32_t>(r);
  ASSIGN_OR_RETURN(adapter.lora_alpha, json.Number("lora_alpha", kMinAlpha, kMaxAlpha));
  ASSIGN_OR_RETURN(adapter.lora_dropout, json.Number("lora_dropout", 0, 1, 0));
  if (adapter.lora_dropout >= 1) return json.Wrong("lora_dropout", "at least 0 and below 1");
  ASSIGN_OR_RETURN(adapter.use_rslora, json.Bool("use_rslora", false));
  ASSIGN_OR_RETURN(adapter.base_model_name_or_path, json.String("base_model_name_or_path", ""));
  ASSIGN_OR_RETURN(const std::vector<ModuleId> modules, AdaptedModules(json, model));
  for (const ModuleId id : modules) {
    config.modules.emplace_back();
    config.modules.back().id = id;
  }
  adapter.target_modules = ShortestTargets(model, modules);
  // Parsed once more because nlohmann::json sorts keys; it has been found well-formed above.
  const nlohmann::ordered_json ordered = nlohmann::ordered_json::parse(text);
  RETURN_IF_ERROR(ReadScalings(ordered, json, config));
  return config;
}

std::string FormatPeftConfig(const HostAdapter& adapter) {
  const AdapterConfig& config = adapter.config;
  nlohmann::json ranks = nlohmann::json::object(), alphas = nlohmann::json::object();
  for (const AdapterModule& module : adapter.modules) {
    if (module.rank != config.r) ranks[ModulePath(module.id)] = module.rank;
    if (module.alpha != config.lora_alpha) alphas[ModulePath(module.id)] = Number(module.alpha);
  }
  nlohmann::json base = nullptr;
  if (!config.base_model_name_or_path.empty()) base = config.base_model_name_or_path;
  // Newer keys crash older PEFT: this is the set that all know (research of PEFT 0.5 to 0.21).
  const nlohmann::json json = {{"alpha_pattern", alphas},
                               {"auto_mapping", nullptr},
                               {"base_model_name_or_path", base},
                               {"bias", "none"},
                               {"fan_in_fan_out", false},
                               {"inference_mode", true},
                               {"init_lora_weights", true},
                               {"layers_pattern", nullptr},
                               {"layers_to_transform", nullptr},
                               {"lora_alpha", Number(config.lora_alpha)},
                               {"lora_dropout", config.lora_dropout},
                               {"modules_to_save", nullptr},
                               {"peft_type", "LORA"},
                               {"r", config.r},
                               {"rank_pattern", ranks},
                               {"revision", nullptr},
                               {"target_modules", TargetsJson(config.target_modules)},
                               {"task_type", "CAUSAL_LM"},
                               {"use_rslora", config.use_rslora}};
  return json.dump(2);
}

}  // namespace lorad
