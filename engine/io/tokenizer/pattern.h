// Patterns of tokenizer.json: literal strings and regular expressions. Internal to engine/io.
#ifndef LORAD_ENGINE_IO_TOKENIZER_PATTERN_H_
#define LORAD_ENGINE_IO_TOKENIZER_PATTERN_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

struct TextRange {
  size_t begin, end;  // bytes
};

// Finds the non-overlapping matches of a literal or of a regular expression. The files' expressions
// are Oniguruma's; they are rewritten for PCRE2 (10.42: Unicode 14), and what the two understand
// differently is refused. Copyable. Thread-safe.
class Pattern {
 public:
  // kUnimplemented for a construct that cannot be rewritten, kInvalidArgument for a syntax error;
  // both show the expression.
  static absl::StatusOr<Pattern> Regex(const std::string& expression, const std::string& where);
  static Pattern Literal(std::string text);
  // From {"String": "..."} or {"Regex": "..."}.
  static absl::StatusOr<Pattern> FromJson(const nlohmann::json& json, const std::string& where);

  // Appends all matches in `text`, which must be valid UTF-8, in order. kResourceExhausted when
  // matching takes more steps than PCRE2's limit.
  absl::Status FindAll(std::string_view text, std::vector<TextRange>* matches) const;

  bool is_literal() const { return code_ == nullptr; }

 private:
  absl::Status FindRegex(std::string_view text, std::vector<TextRange>* matches) const;

  std::string text_;                  // the literal, or the expression for errors
  std::shared_ptr<const void> code_;  // pcre2_code, immutable; null for a literal
};

// `expression` in PCRE2's syntax; kUnimplemented names the construct.
absl::StatusOr<std::string> OnigurumaToPcre2(std::string_view expression);

// The text with every match replaced by `replacement`.
absl::StatusOr<std::string> ReplaceAll(std::string_view text, const Pattern& pattern,
                                       std::string_view replacement);

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_PATTERN_H_
