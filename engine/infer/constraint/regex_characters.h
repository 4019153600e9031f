// Characters, classes and escapes of regular expressions. Internal to engine/infer/constraint.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_REGEX_CHARACTERS_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_REGEX_CHARACTERS_H_

#include <cstddef>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/infer/constraint/code_points.h"

namespace lorad {

// kInvalidArgument "at byte `offset`: `what`".
absl::Status RegexError(size_t offset, std::string_view what);

// A place in a pattern; what it reads is taken off. Thread-compatible.
class RegexCursor {
 public:
  // REQUIRES: valid UTF-8.
  explicit RegexCursor(std::string_view pattern) : pattern_(pattern) {}

  bool done() const { return offset_ == pattern_.size(); }
  size_t offset() const { return offset_; }
  std::string_view rest() const { return pattern_.substr(offset_); }
  bool Sees(std::string_view text) const { return rest().substr(0, text.size()) == text; }
  // Takes `text` if it is next.
  bool Take(std::string_view text);
  char32_t TakeCharacter();  // REQUIRES: !done()
  // A decimal number, none without a digit; what is too large for kMaxRepeat is kMaxRepeat + 1.
  std::optional<int32_t> TakeNumber();

 private:
  const std::string_view pattern_;
  size_t offset_ = 0;
};

CodePoints AnyButLineEnds();

// What a backslash begins, which has been taken; one character, or a class such as \d.
absl::StatusOr<CodePoints> ParseEscape(RegexCursor* cursor, bool in_class);
// What a bracket begins, which has been taken, to its closing bracket.
absl::StatusOr<CodePoints> ParseClass(RegexCursor* cursor);

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_REGEX_CHARACTERS_H_
