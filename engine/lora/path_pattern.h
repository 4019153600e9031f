// Regular expressions over module paths. Internal to engine/lora.
#ifndef LORAD_ENGINE_LORA_PATH_PATTERN_H_
#define LORAD_ENGINE_LORA_PATH_PATTERN_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace lorad {

// A pattern that must match a whole path (Python's re.fullmatch). The effort of one match is
// bounded, so that a pattern from a file or a request cannot occupy the process. Move-only,
// thread-safe.
class PathPattern {
 public:
  // kInvalidArgument with the place of the fault, or when longer than 4096 bytes.
  static absl::StatusOr<PathPattern> Compile(const std::string& pattern);
  // PEFT's keys of rank_pattern and alpha_pattern: re.match(r"(.*\.)?(KEY)$", path).
  static absl::StatusOr<PathPattern> CompilePatternKey(const std::string& key);

  // kInvalidArgument when the bound on effort is reached.
  absl::StatusOr<bool> Matches(std::string_view path) const;

 private:
  PathPattern() = default;

  std::string pattern_;
  std::shared_ptr<const void> code_;  // pcre2_code
};

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_PATH_PATTERN_H_
