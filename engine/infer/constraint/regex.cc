#include "engine/infer/constraint/regex.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/infer/constraint/regex_characters.h"
#include "engine/io/text.h"
#include "engine/io/utf8.h"

namespace lorad {
namespace {

constexpr std::string_view kQuantifiers = "*+?";

// Groups that change what a pattern may match in a way that no automaton follows, or that say
// nothing about a whole text; in the order in which they must be looked for.
constexpr std::pair<std::string_view, std::string_view> kRefusedGroups[] = {
    {"(?=", "lookahead"},          {"(?!", "lookahead"},           {"(?<=", "lookbehind"},
    {"(?<!", "lookbehind"},        {"(?>", "an atomic group"},     {"(?P=", "a backreference"},
    {"(?P>", "a subroutine call"}, {"(?(", "a conditional group"}, {"(?#", "a comment"},
    {"(*", "a control verb"},
};

class RegexParser {
 public:
  RegexParser(std::string_view pattern, const RegexOptions& options)
      : cursor_(pattern), options_(options) {}

  absl::StatusOr<ExpressionPtr> Parse() {
    ASSIGN_OR_RETURN(ExpressionPtr whole, ParseChoice(0));
    if (!cursor_.done()) return RegexError(cursor_.offset(), "a ')' without its '('");
    return whole;
  }

 private:
  struct Count {
    int32_t min, max;
  };

  absl::StatusOr<ExpressionPtr> ParseChoice(int depth);
  absl::StatusOr<ExpressionPtr> ParseSequence(int depth);
  absl::StatusOr<ExpressionPtr> ParseAtom(int depth);
  absl::StatusOr<ExpressionPtr> ParseGroup(int depth);
  absl::Status TakeGroupStart();
  absl::StatusOr<std::optional<Count>> ParseCount();
  absl::StatusOr<std::optional<Count>> ParseBraces();

  bool SeesBraces() const {  // of a count
    const std::string_view rest = cursor_.rest();
    return rest.size() > 1 && rest[0] == '{' && rest[1] >= '0' && rest[1] <= '9';
  }
  ExpressionPtr Spell(const CodePoints& set) const {
    return options_.spell ? options_.spell(set) : OneOf(set);
  }
  ExpressionPtr AnyText() const {
    return Repeated(Spell(AllCodePoints()), 0, kNoLimit, "text around the pattern");
  }

  RegexCursor cursor_;
  const RegexOptions& options_;
};

absl::StatusOr<ExpressionPtr> RegexParser::ParseChoice(int depth) {
  std::vector<ExpressionPtr> alternatives;
  do {
    ASSIGN_OR_RETURN(ExpressionPtr alternative, ParseSequence(depth));
    alternatives.push_back(std::move(alternative));
  } while (cursor_.Take("|"));
  return AnyOf(std::move(alternatives));
}

absl::StatusOr<ExpressionPtr> RegexParser::ParseSequence(int depth) {
  const bool outermost = depth == 0;
  const bool tied_start = outermost && cursor_.Take("^");
  bool tied_end = false;
  std::vector<ExpressionPtr> parts;
  if (outermost && options_.anywhere && !tied_start) parts.push_back(AnyText());
  while (!cursor_.done() && !cursor_.Sees("|") && !cursor_.Sees(")")) {
    const size_t begin = cursor_.offset();
    if (outermost && cursor_.Take("$")) {
      tied_end = true;
      if (cursor_.done() || cursor_.Sees("|")) break;
      return RegexError(begin, R"("$" before the end of an alternative; write \$ for a dollar)");
    }
    ASSIGN_OR_RETURN(ExpressionPtr atom, ParseAtom(depth));
    ASSIGN_OR_RETURN(const std::optional<Count> count, ParseCount());
    if (count.has_value()) {
      atom = Repeated(std::move(atom), count->min, count->max,
                      absl::StrCat("the repetition that ends at byte ", cursor_.offset()));
    }
    parts.push_back(std::move(atom));
  }
  if (outermost && options_.anywhere && !tied_end) parts.push_back(AnyText());
  return InOrder(std::move(parts));
}

absl::StatusOr<ExpressionPtr> RegexParser::ParseAtom(int depth) {
  const size_t begin = cursor_.offset();
  if (cursor_.Sees("(")) return ParseGroup(depth);
  if (cursor_.Sees("^") || cursor_.Sees("$")) {
    return RegexError(begin, absl::StrCat("an anchor (", AbslView(cursor_.rest().substr(0, 1)),
                                          ") inside the pattern is not supported; it can only "
                                          "stand around a whole alternative"));
  }
  if (kQuantifiers.find(cursor_.rest()[0]) != std::string_view::npos || SeesBraces()) {
    return RegexError(begin, absl::StrCat("\"", AbslView(cursor_.rest().substr(0, 1)),
                                          "\" has nothing to repeat; write a backslash before it "
                                          "for the character"));
  }
  CodePoints set;
  if (cursor_.Take("[")) {
    ASSIGN_OR_RETURN(set, ParseClass(&cursor_));
  } else if (cursor_.Take("\\")) {
    ASSIGN_OR_RETURN(set, ParseEscape(&cursor_, /*in_class=*/false));
  } else if (cursor_.Take(".")) {
    set = AnyButLineEnds();
  } else {
    const char32_t c = cursor_.TakeCharacter();
    set = {{c, c}};
  }
  return Spell(set);
}

// Takes the opening of a group that only groups.
absl::Status RegexParser::TakeGroupStart() {
  const size_t begin = cursor_.offset();
  for (const auto& [text, name] : kRefusedGroups) {
    if (!cursor_.Sees(text)) continue;
    return RegexError(begin, absl::StrCat(AbslView(name), " ", AbslView(text),
                                          "...) is not supported: only what is regular is"));
  }
  cursor_.Take("(");
  if (!cursor_.Take("?")) return absl::OkStatus();
  if (cursor_.Take(":")) return absl::OkStatus();
  if (!cursor_.Take("<") && !cursor_.Take("P<"))
    return RegexError(begin, "inline flags, or a group of an unknown kind, are not supported");
  const size_t end = cursor_.rest().find('>');
  if (end == std::string_view::npos || end == 0)
    return RegexError(begin, "a group's name without its end");
  while (!cursor_.Take(">")) cursor_.TakeCharacter();
  return absl::OkStatus();
}

absl::StatusOr<ExpressionPtr> RegexParser::ParseGroup(int depth) {
  const size_t begin = cursor_.offset();
  if (depth == kMaxPatternDepth)
    return RegexError(begin, absl::StrCat("groups are nested deeper than ", kMaxPatternDepth));
  RETURN_IF_ERROR(TakeGroupStart());
  ASSIGN_OR_RETURN(ExpressionPtr inside, ParseChoice(depth + 1));
  if (!cursor_.Take(")")) return RegexError(begin, "a '(' without its ')'");
  return inside;
}

absl::StatusOr<std::optional<RegexParser::Count>> RegexParser::ParseCount() {
  const size_t begin = cursor_.offset();
  std::optional<Count> count;
  if (cursor_.Take("*")) {
    count = {0, kNoLimit};
  } else if (cursor_.Take("+")) {
    count = {1, kNoLimit};
  } else if (cursor_.Take("?")) {
    count = {0, 1};
  } else {
    ASSIGN_OR_RETURN(count, ParseBraces());
  }
  if (!count.has_value()) return count;
  if (cursor_.Sees("+"))
    return RegexError(begin, "a possessive repetition is not supported: only what is regular is");
  cursor_.Take("?");
  return count;
}

// {m}, {m,} or {m,n}; a brace before anything but a digit is a character.
absl::StatusOr<std::optional<RegexParser::Count>> RegexParser::ParseBraces() {
  const size_t begin = cursor_.offset();
  if (cursor_.Sees("{,"))
    return RegexError(begin, R"("{,n}" means different things elsewhere; write {0,n} or \{)");
  if (!SeesBraces()) return std::nullopt;
  cursor_.Take("{");
  Count count{};
  count.min = *cursor_.TakeNumber();
  count.max = cursor_.Take(",") ? cursor_.TakeNumber().value_or(kNoLimit) : count.min;
  if (!cursor_.Take("}")) return RegexError(begin, R"(a count without its "}"; write {m,n} or \{)");
  if (count.min > kMaxRepeat || count.max > kMaxRepeat)
    return RegexError(begin, absl::StrCat("a count is above the limit of ", kMaxRepeat));
  if (count.max != kNoLimit && count.max < count.min)
    return RegexError(begin, "a count whose largest number is below its smallest");
  return count;
}

}  // namespace

absl::StatusOr<ExpressionPtr> ParseRegex(std::string_view pattern, const RegexOptions& options) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the pattern has ", pattern.size(), " bytes, at most ", kMaxPatternBytes, " are allowed"));
  }
  if (const size_t bad = FirstInvalidUtf8(pattern); bad != pattern.size())
    return RegexError(bad, "the pattern is not valid UTF-8");
  return RegexParser(pattern, options).Parse();
}

}  // namespace lorad
