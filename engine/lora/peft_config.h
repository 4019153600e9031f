// adapter_config.json of PEFT. Internal to engine/lora.
#ifndef LORAD_ENGINE_LORA_PEFT_CONFIG_H_
#define LORAD_ENGINE_LORA_PEFT_CONFIG_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/lora/adapter.h"
#include "engine/lora/path_pattern.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"

namespace lorad {

// One module as the config describes it.
struct PeftModule {
  ModuleId id;
  int32_t rank = 0;
  double alpha = 0;
  float scaling = 0;  // alpha / rank, or alpha / sqrt(rank) with use_rslora
};

struct PeftConfig {
  AdapterConfig adapter;
  std::vector<PeftModule> modules;  // by ModuleId::index, ascending; not empty
};

// `where` (a path) starts every error. Keys that change nothing of the maths, known or not, are
// ignored; kUnimplemented names one that does and is not supported, kInvalidArgument one out of
// range, or targets that match no module of the model.
absl::StatusOr<PeftConfig> ParsePeftConfig(const std::string& json, const std::string& where,
                                           const ModelConfig& model);

// The keys that every PEFT since 0.5 knows, sorted, indented by 2, as PEFT writes them.
std::string FormatPeftConfig(const HostAdapter& adapter);

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_PEFT_CONFIG_H_
