// The linear layers of a decoder, by name and by number.
#ifndef LORAD_ENGINE_MODEL_MODULES_H_
#define LORAD_ENGINE_MODEL_MODULES_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/model/config.h"

namespace lorad {

enum class Projection : uint8_t { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kNumProjections = 7;
inline constexpr std::array<Projection, kNumProjections> kAllProjections = {
    Projection::kQ,    Projection::kK,  Projection::kV,   Projection::kO,
    Projection::kGate, Projection::kUp, Projection::kDown};

struct ModuleId {
  int32_t layer = 0;
  Projection projection = Projection::kQ;

  // Position among all linear layers of the model: layer * kNumProjections + projection.
  int32_t index() const { return layer * kNumProjections + static_cast<int32_t>(projection); }
  static ModuleId FromIndex(int32_t index) {
    return {index / kNumProjections, static_cast<Projection>(index % kNumProjections)};
  }
  bool operator==(const ModuleId&) const = default;
};

// "q_proj"
std::string_view ProjectionName(Projection projection);
// "model.layers.3.self_attn.q_proj", the path in the transformers model.
std::string ModulePath(ModuleId id);
// The inverse; nullopt for anything else.
std::optional<ModuleId> ParseModulePath(std::string_view path);
int64_t InFeatures(const ModelConfig& config, Projection projection);
int64_t OutFeatures(const ModelConfig& config, Projection projection);
bool HasBias(const ModelConfig& config, Projection projection);
// What a wrong name is answered with: "q_proj, k_proj, ...".
std::string KnownProjections();

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_MODULES_H_
