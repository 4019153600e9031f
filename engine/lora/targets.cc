#include "engine/lora/targets.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/lora/path_pattern.h"

namespace lorad {
namespace {

constexpr std::string_view kRegexPrefix = "regex:";
constexpr size_t kMaxTargets = 4096;  // more than any model has modules
constexpr int kMaxRegexes = 16;       // each may take its whole match limit on every module

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

// Equal, or the end of the path after a dot.
bool NameMatches(std::string_view path, std::string_view name) {
  if (path == name) return true;
  return path.size() > name.size() && path[path.size() - name.size() - 1] == '.' &&
         path.substr(path.size() - name.size()) == name;
}

absl::Status MatchesNothing(const ModelConfig& config, const std::string& target) {
  const std::string shown = absl::CHexEscape(target.substr(0, 80));
  if (NameMatches(target, "lm_head") || NameMatches(target, "embed_tokens"))
    return absl::InvalidArgumentError(
        absl::StrCat("target \"", shown,
                     "\": the output head and the embedding cannot be adapted; "
                     "use all-linear or names among ",
                     KnownProjections()));
  return absl::InvalidArgumentError(
      absl::StrCat("target \"", shown, "\" matches no module; there are ", KnownProjections(),
                   " in layers 0 to ", config.num_layers - 1,
                   ", e.g. model.layers.0.self_attn.q_proj, or all-linear"));
}

// What an entry that is no regular expression means.
bool TargetMatches(const std::string& target, ModuleId id) {
  return absl::EqualsIgnoreCase(target, "all-linear") || NameMatches(ModulePath(id), target);
}

}  // namespace

absl::StatusOr<std::vector<ModuleId>> MatchTarget(const ModelConfig& config,
                                                  const std::string& target) {
  std::optional<PathPattern> pattern;
  if (StartsWith(target, kRegexPrefix)) {
    ASSIGN_OR_RETURN(pattern, PathPattern::Compile(target.substr(kRegexPrefix.size())));
  }
  std::vector<ModuleId> modules;
  for (int32_t i = 0; i < config.num_layers * kNumProjections; ++i) {
    const ModuleId id = ModuleId::FromIndex(i);
    bool matches = false;
    if (pattern.has_value()) {
      ASSIGN_OR_RETURN(matches, pattern->Matches(ModulePath(id)));
    } else {
      matches = TargetMatches(target, id);
    }
    if (matches) modules.push_back(id);
  }
  return modules;
}

absl::StatusOr<std::vector<ModuleId>> MatchTargets(const ModelConfig& config,
                                                   const std::vector<std::string>& targets) {
  if (targets.empty() || targets.size() > kMaxTargets)
    return absl::InvalidArgumentError(absl::StrCat("target_modules has ", targets.size(),
                                                   " entries; give 1 to ", kMaxTargets,
                                                   ", e.g. all-linear"));
  if (std::count_if(targets.begin(), targets.end(), [](const std::string& target) {
        return StartsWith(target, kRegexPrefix);
      }) > kMaxRegexes)
    return absl::InvalidArgumentError(absl::StrCat("target_modules has more than ", kMaxRegexes,
                                                   " regular expressions; join them with |"));
  std::vector<bool> chosen(config.num_layers * kNumProjections, false);
  for (const std::string& target : std::set<std::string>(targets.begin(), targets.end())) {
    ASSIGN_OR_RETURN(const std::vector<ModuleId> matched, MatchTarget(config, target));
    if (matched.empty()) return MatchesNothing(config, target);
    for (const ModuleId id : matched) chosen[id.index()] = true;
  }
  std::vector<ModuleId> modules;
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i]) modules.push_back(ModuleId::FromIndex(static_cast<int32_t>(i)));
  }
  return modules;
}

std::vector<std::string> ShortestTargets(const ModelConfig& config,
                                         const std::vector<ModuleId>& modules) {
  std::array<int64_t, kNumProjections> layers{};
  for (const ModuleId id : modules) ++layers[static_cast<int>(id.projection)];
  std::set<std::string> names;
  for (const ModuleId id : modules) {
    const bool everywhere = layers[static_cast<int>(id.projection)] == config.num_layers;
    names.insert(everywhere ? std::string(ProjectionName(id.projection)) : ModulePath(id));
  }
  return {names.begin(), names.end()};
}

}  // namespace lorad
