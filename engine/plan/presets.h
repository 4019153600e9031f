// Published shapes of decoders by name, for plans without a model directory.
#ifndef LORAD_ENGINE_PLAN_PRESETS_H_
#define LORAD_ENGINE_PLAN_PRESETS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"

namespace lorad {

// "llama-65b", "llama-3-8b", "qwen2.5-7b", ...: as published in each model's config.json on the
// Hugging Face hub, token ids left out. kNotFound lists the known names.
absl::StatusOr<ModelConfig> FindPreset(const std::string& name);
// In order of family and size.
std::vector<std::string> PresetNames();

// Embeddings, head (once where tied), norms, linears and biases. REQUIRES: CheckPlannable.
int64_t ParameterCount(const ModelConfig& config);
// Of the decoder's linears alone: what is quantised.
int64_t LinearParameterCount(const ModelConfig& config);

// kInvalidArgument names the first dimension that is not in [1, its bound], or that does not go
// with another; or a model of more than 10^14 parameters. Sums over a model that passes cannot
// overflow 64 bits.
absl::Status CheckPlannable(const ModelConfig& config);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_PRESETS_H_
