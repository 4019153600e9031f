// The adapter that a job starts from.
#ifndef LORAD_ENGINE_TRAIN_LORA_INIT_H_
#define LORAD_ENGINE_TRAIN_LORA_INIT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/lora/adapter.h"
#include "engine/model/config.h"
#include "engine/train/spec.h"

namespace lorad {

// PEFT's initialisation: A uniform in [-1/sqrt(in), 1/sqrt(in)) (kaiming_uniform with a = sqrt(5)),
// B zero. A's numbers are a function of the seed and the module's path alone, so a module starts
// alike whatever else is adapted.
// kInvalidArgument: r outside [1, 1024] or above the smaller side of a target, lora_alpha <= 0,
// lora_dropout outside [0, 1), an entry of target_modules that matches nothing.
absl::StatusOr<HostAdapter> InitialAdapter(const LoraSpec& spec, const ModelConfig& config,
                                           uint64_t seed);

// The adapter of a PEFT directory, with the dropout of `spec`; its rank_pattern and alpha_pattern
// stay. kInvalidArgument when its largest rank is not the spec's r, or lora_alpha, use_rslora or
// modules differ, naming both; errors of ReadPeftAdapter.
absl::StatusOr<HostAdapter> WarmStartAdapter(const LoraSpec& spec, const ModelConfig& config,
                                             const std::string& peft_dir);

// The shortest list of names that PEFT matches to exactly these modules: a projection's name where
// every layer has it, whole paths elsewhere. Sorted.
std::vector<std::string> TargetNames(const std::vector<ModuleId>& modules,
                                     const ModelConfig& config);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_LORA_INIT_H_
