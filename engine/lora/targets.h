// Which modules an adapter adapts.
#ifndef LORAD_ENGINE_LORA_TARGETS_H_
#define LORAD_ENGINE_LORA_TARGETS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"

namespace lorad {

// The modules that a list of targets means, ascending, as PEFT matches them: an entry equals a
// module path or ends it after a dot; "all-linear" (any case) is every linear but the output head;
// "regex:R" must match a whole path (Python's re.fullmatch; PCRE2, with a match limit).
// kInvalidArgument names an entry that matches nothing and lists what there is.
absl::StatusOr<std::vector<ModuleId>> MatchTargets(const ModelConfig& config,
                                                   const std::vector<std::string>& targets);

// The modules that one entry means; none is not an error.
absl::StatusOr<std::vector<ModuleId>> MatchTarget(const ModelConfig& config,
                                                  const std::string& target);

// The shortest list of names that MatchTargets, and PEFT, match to exactly `modules`: a
// projection's name where every layer has it, whole paths elsewhere. Sorted.
std::vector<std::string> ShortestTargets(const ModelConfig& config,
                                         const std::vector<ModuleId>& modules);

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_TARGETS_H_
