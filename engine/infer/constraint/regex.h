// Regular expressions that constrain an answer.
//
// The syntax is ECMAScript's with the flag u, without what is not regular:
//   x \. \n \r \t \f \v \0 \xHH \uHHHH \u{H...}   a character
//   .                                             any but \n, \r, U+2028, U+2029
//   [a-z_] [^...]                                 classes; \b in them is a backspace
//   \d \D \w \W \s \S                             ASCII digits and word characters; Unicode spaces
//   (...) (?:...) (?<name>...) (?P<name>...)      groups; nothing is captured
//   a|b  * + ? {m} {m,} {m,n}                     a "?" behind a count (lazy) changes no match
//   ^ $                                           only around a whole alternative
// Characters are Unicode's, whole. Refused by name: lookaround, backreferences, word boundaries,
// Unicode properties, inline flags, possessive counts, atomic and conditional groups.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_REGEX_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_REGEX_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/infer/constraint/expression.h"

namespace lorad {

inline constexpr size_t kMaxPatternBytes = 16 << 10;
inline constexpr int kMaxPatternDepth = 100;  // of groups in groups
inline constexpr int32_t kMaxRepeat = 10000;  // in {m,n}

struct RegexOptions {
  // False: the expression is the whole text, ^ and $ say nothing new. True: it is anywhere in the
  // text unless ^ or $ tie it, as in JSON schema.
  bool anywhere = false;
  // How one character of a set is written in the answer. Null: as itself.
  std::function<ExpressionPtr(const CodePoints&)> spell = nullptr;
};

// kInvalidArgument "at byte 7: ..." with the offset in the pattern, from 0, and the construct.
absl::StatusOr<ExpressionPtr> ParseRegex(std::string_view pattern, const RegexOptions& options);

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_REGEX_H_
