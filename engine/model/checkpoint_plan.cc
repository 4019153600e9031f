#include "engine/model/checkpoint_plan.h"

#include <set>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/model/bitsandbytes.h"

namespace lorad {
namespace {

class Planner {
 public:
  Planner(const ModelConfig& config, const SafetensorsCheckpoint& checkpoint)
      : config_(config), checkpoint_(checkpoint) {}

  absl::StatusOr<CheckpointPlan> Plan() {
    CheckpointPlan plan;
    const std::vector<int64_t> vocab = {config_.vocab_size, config_.hidden_size};
    ASSIGN_OR_RETURN(plan.embedding, Dense("model.embed_tokens.weight", vocab));
    ASSIGN_OR_RETURN(plan.final_norm, Dense("model.norm.weight", {config_.hidden_size}));
    if (!config_.tie_word_embeddings) {
      ASSIGN_OR_RETURN(plan.head, Dense("lm_head.weight", vocab));
    }
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      ASSIGN_OR_RETURN(LayerSource source, Layer(layer));
      plan.layers.push_back(std::move(source));
    }
    RETURN_IF_ERROR(CheckPacked(plan));
    RETURN_IF_ERROR(RefuseUnexpected());
    return plan;
  }

 private:
  const SafetensorsEntry* Find(const std::string& name) {
    const SafetensorsEntry* entry = checkpoint_.Find(name);
    if (entry != nullptr) used_.insert(entry->name);
    return entry;
  }

  absl::StatusOr<const SafetensorsEntry*> Required(const std::string& name) {
    const SafetensorsEntry* entry = Find(name);
    if (entry == nullptr)
      return absl::NotFoundError(absl::StrCat("tensor ", name, " is missing: config.json (",
                                              config_.architecture, ", ", config_.num_layers,
                                              " layers) asks for it"));
    return entry;
  }

  absl::Status CheckDense(const SafetensorsEntry& entry, const std::vector<int64_t>& shape) {
    SafetensorsEntry expected;
    expected.shape = shape;
    if (entry.shape != shape)
      return absl::InvalidArgumentError(absl::StrCat("tensor ", entry.name, " has shape ",
                                                     entry.ShapeString(), "; config.json asks for ",
                                                     expected.ShapeString()));
    if (entry.dtype != DType::kBF16 && entry.dtype != DType::kF16 && entry.dtype != DType::kF32)
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", entry.name, " is ", Name(entry.dtype), "; supported: BF16, F16, F32"));
    return absl::OkStatus();
  }

  absl::StatusOr<const SafetensorsEntry*> Dense(const std::string& name,
                                                const std::vector<int64_t>& shape) {
    ASSIGN_OR_RETURN(const SafetensorsEntry* entry, Required(name));
    RETURN_IF_ERROR(CheckDense(*entry, shape));
    return entry;
  }

  absl::StatusOr<LinearSource> Linear(ModuleId id) {
    LinearSource source;
    source.path = ModulePath(id);
    source.out_features = OutFeatures(config_, id.projection);
    source.in_features = InFeatures(config_, id.projection);
    const std::string name = source.path + ".weight";
    ASSIGN_OR_RETURN(source.weight, Required(name));
    ASSIGN_OR_RETURN(
        source.packed,
        FindBitsAndBytesParts(name, source.out_features, source.in_features, *source.weight,
                              [this](const std::string& part) { return Find(part); }));
    if (!source.packed.has_value())
      RETURN_IF_ERROR(CheckDense(*source.weight, {source.out_features, source.in_features}));
    if (HasBias(config_, id.projection)) {
      ASSIGN_OR_RETURN(source.bias, Dense(source.path + ".bias", {source.out_features}));
    }
    return source;
  }

  absl::StatusOr<LayerSource> Layer(int32_t layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    LayerSource source;
    ASSIGN_OR_RETURN(source.input_norm,
                     Dense(prefix + "input_layernorm.weight", {config_.hidden_size}));
    ASSIGN_OR_RETURN(source.post_attention_norm,
                     Dense(prefix + "post_attention_layernorm.weight", {config_.hidden_size}));
    for (Projection projection : kAllProjections) {
      ASSIGN_OR_RETURN(source.linear[static_cast<int>(projection)], Linear({layer, projection}));
    }
    return source;
  }

  static absl::Status CheckPacked(CheckpointPlan& plan) {
    for (const LayerSource& layer : plan.layers) {
      for (const LinearSource& linear : layer.linear) {
        if (!linear.packed.has_value()) continue;
        if (plan.packed == nullptr) plan.packed = &linear;
        RETURN_IF_ERROR(
            CheckSameFormat(linear.path + ".weight", *linear.packed, *plan.packed->packed));
      }
    }
    return absl::OkStatus();
  }

  absl::Status RefuseUnexpected() const {
    constexpr std::string_view kBuffer = "rotary_emb.inv_freq";
    for (const SafetensorsEntry* entry : checkpoint_.entries()) {
      const std::string_view name = entry->name;
      if (used_.count(name) > 0) continue;
      if (name.size() >= kBuffer.size() && name.substr(name.size() - kBuffer.size()) == kBuffer)
        continue;
      if (config_.tie_word_embeddings && name == "lm_head.weight") continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", entry->name, " ", entry->ShapeString(), ": ", config_.architecture,
          " as config.json describes it has no such weight; "
          "loading without it would change the model"));
    }
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const SafetensorsCheckpoint& checkpoint_;
  std::set<std::string_view> used_;
};

}  // namespace

absl::StatusOr<CheckpointPlan> PlanCheckpoint(const ModelConfig& config,
                                              const SafetensorsCheckpoint& checkpoint) {
  return Planner(config, checkpoint).Plan();
}

}  // namespace lorad
