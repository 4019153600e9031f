#include "engine/model/modules.h"

#include <charconv>

#include "engine/core/check.h"

namespace lorad {
namespace {

constexpr std::array<std::string_view, kNumProjections> kNames = {
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
constexpr std::string_view kPrefix = "model.layers.";

std::string_view Block(Projection projection) {
  return projection <= Projection::kO ? "self_attn" : "mlp";
}

}  // namespace

std::string_view ProjectionName(Projection projection) {
  return kNames[static_cast<int>(projection)];
}

std::string ModulePath(ModuleId id) {
  std::string path(kPrefix);
  path += std::to_string(id.layer);
  path += '.';
  path += Block(id.projection);
  path += '.';
  path += ProjectionName(id.projection);
  return path;
}

std::optional<ModuleId> ParseModulePath(std::string_view path) {
  if (path.substr(0, kPrefix.size()) != kPrefix) return std::nullopt;
  const char* const end = path.data() + path.size();
  ModuleId id;
  const auto [next, error] = std::from_chars(path.data() + kPrefix.size(), end, id.layer);
  if (error != std::errc() || id.layer < 0) return std::nullopt;
  const std::string_view rest(next, end - next);
  for (Projection projection : kAllProjections) {
    id.projection = projection;
    // The whole path again: "007" and "+7" parse as 7 and are not what transformers writes.
    if (rest.size() > 1 && path == ModulePath(id)) return id;
  }
  return std::nullopt;
}

int64_t InFeatures(const ModelConfig& config, Projection projection) {
  switch (projection) {
    case Projection::kO:
      return config.q_features();
    case Projection::kDown:
      return config.intermediate_size;
    default:
      return config.hidden_size;
  }
}

int64_t OutFeatures(const ModelConfig& config, Projection projection) {
  switch (projection) {
    case Projection::kQ:
      return config.q_features();
    case Projection::kK:
    case Projection::kV:
      return config.kv_features();
    case Projection::kGate:
    case Projection::kUp:
      return config.intermediate_size;
    case Projection::kO:
    case Projection::kDown:
      return config.hidden_size;
  }
  LORAD_CHECK(false);
  return 0;
}

bool HasBias(const ModelConfig& config, Projection projection) {
  switch (projection) {
    case Projection::kQ:
    case Projection::kK:
    case Projection::kV:
      return config.qkv_bias;
    case Projection::kO:
      return config.o_bias;
    case Projection::kGate:
    case Projection::kUp:
    case Projection::kDown:
      return config.mlp_bias;
  }
  LORAD_CHECK(false);
  return false;
}

std::string KnownProjections() {
  std::string names;
  for (std::string_view name : kNames) {
    if (!names.empty()) names += ", ";
    names += name;
  }
  return names;
}

}  // namespace lorad
