#include "engine/infer/constraint/regex_characters.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/infer/constraint/regex.h"
#include "engine/io/text.h"
#include "engine/io/utf8.h"

namespace lorad {
namespace {

CodePoints One(char32_t c) { return {{c, c}}; }

CodePoints Digits() { return {{'0', '9'}}; }
CodePoints WordCharacters() { return {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}; }
// ECMAScript's WhiteSpace and LineTerminator.
CodePoints Spaces() {
  return {{0x9, 0xD},       {0x20, 0x20},     {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
          {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
}

std::optional<CodePoints> ClassEscape(char32_t c) {
  switch (c) {
    case 'd':
      return Digits();
    case 'D':
      return Complement(Digits());
    case 'w':
      return WordCharacters();
    case 'W':
      return Complement(WordCharacters());
    case 's':
      return Spaces();
    case 'S':
      return Complement(Spaces());
    default:
      return std::nullopt;
  }
}

std::optional<char32_t> ControlEscape(char32_t c) {
  switch (c) {
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    default:
      return std::nullopt;
  }
}

// What is not supported, by the character after the backslash; null for anything else.
const char* RefusedEscape(char32_t c, bool in_class) {
  if (c >= '1' && c <= '9') return in_class ? "an octal escape" : "a backreference";
  switch (c) {
    case 'k':
    case 'g':
      return "a backreference";
    case 'b':
    case 'B':
      return "a word boundary";
    case 'p':
    case 'P':
      return "a Unicode property";
    case 'A':
    case 'Z':
    case 'z':
    case 'G':
      return "an anchor in this form";
    default:
      return nullptr;
  }
}

std::optional<char32_t> TakeHex(RegexCursor* cursor, size_t digits) {
  char32_t value = 0;
  for (size_t i = 0; i < digits; ++i) {
    if (cursor->done() || !absl::ascii_isxdigit(static_cast<unsigned char>(cursor->rest()[0])))
      return std::nullopt;
    const char digit = absl::ascii_tolower(static_cast<unsigned char>(cursor->rest()[0]));
    value = value * 16 + (digit <= '9' ? digit - '0' : digit - 'a' + 10);
    cursor->TakeCharacter();
  }
  return value;
}

// After \x or \u.
absl::StatusOr<CodePoints> ParseHexEscape(RegexCursor* cursor, bool four_digits, size_t begin) {
  std::optional<char32_t> value;
  if (four_digits && cursor->Take("{")) {
    const size_t end = cursor->rest().find('}');
    if (end != std::string_view::npos && end >= 1 && end <= 6) value = TakeHex(cursor, end);
    if (!cursor->Take("}")) value.reset();
  } else {
    value = TakeHex(cursor, four_digits ? 4 : 2);
  }
  if (!value.has_value() || *value > kLastCodePoint) {
    return RegexError(begin, R"(an incomplete escape; write \xHH, \uHHHH or \u{H} to \u{10FFFF})");
  }
  if (*value >= 0xD800 && *value <= 0xDFFF)
    return RegexError(begin, R"(a surrogate is no character; write it whole as \u{H...})");
  return One(*value);
}

// One end of a range, or a class.
absl::StatusOr<CodePoints> ParseClassItem(RegexCursor* cursor) {
  if (cursor->Sees("[:") || cursor->Sees("[.") || cursor->Sees("[="))
    return RegexError(cursor->offset(),
                      R"(a POSIX class is not supported; write \[ for a bracket)");
  if (cursor->Take("\\")) return ParseEscape(cursor, /*in_class=*/true);
  return One(cursor->TakeCharacter());
}

bool IsOneCharacter(const CodePoints& set) { return set.size() == 1 && set[0].low == set[0].high; }

}  // namespace

absl::Status RegexError(size_t offset, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("at byte ", offset, ": ", AbslView(what)));
}

bool RegexCursor::Take(std::string_view text) {
  if (!Sees(text)) return false;
  offset_ += text.size();
  return true;
}

char32_t RegexCursor::TakeCharacter() {
  const Utf8Step step = NextUtf8(rest());
  offset_ += step.length;
  return step.code_point;
}

std::optional<int32_t> RegexCursor::TakeNumber() {
  std::optional<int32_t> number;
  while (!done() && absl::ascii_isdigit(static_cast<unsigned char>(rest()[0]))) {
    number = std::min(number.value_or(0) * 10 + (rest()[0] - '0'), kMaxRepeat + 1);
    ++offset_;
  }
  return number;
}

CodePoints AnyButLineEnds() { return Complement({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}); }

absl::StatusOr<CodePoints> ParseEscape(RegexCursor* cursor, bool in_class) {
  const size_t begin = cursor->offset() - 1;
  if (cursor->done()) return RegexError(begin, "a backslash at the end; write \\\\ for itself");
  const char32_t c = cursor->TakeCharacter();
  if (const auto set = ClassEscape(c)) return *set;
  if (const auto control = ControlEscape(c)) return One(*control);
  if (c == 'b' && in_class) return One('\b');
  if (c == 'x' || c == 'u') return ParseHexEscape(cursor, c == 'u', begin);
  const bool digit_follows =
      !cursor->done() && absl::ascii_isdigit(static_cast<unsigned char>(cursor->rest()[0]));
  if (c == '0') {
    if (digit_follows) return RegexError(begin, R"(an octal escape is not supported; use \xHH)");
    return One(0);
  }
  std::string text = "\\";
  AppendUtf8(c, &text);
  if (const char* refused = RefusedEscape(c, in_class)) {
    return RegexError(begin, absl::StrCat(refused, " (", text, ") is not supported"));
  }
  if (c > 0x7F || absl::ascii_isalnum(static_cast<unsigned char>(c)))
    return RegexError(begin, absl::StrCat("an unknown escape (", text, ")"));
  return One(c);
}

absl::StatusOr<CodePoints> ParseClass(RegexCursor* cursor) {
  const size_t begin = cursor->offset() - 1;
  const bool negated = cursor->Take("^");
  if (cursor->Sees("]"))
    return RegexError(begin,
                      R"(a class that is empty, or begins with "]"; write \] for a bracket)");
  CodePoints set;
  while (!cursor->Take("]")) {
    if (cursor->done()) return RegexError(begin, R"(a class without its closing "]")");
    const size_t item = cursor->offset();
    ASSIGN_OR_RETURN(CodePoints low, ParseClassItem(cursor));
    // A hyphen before the closing bracket stands for itself.
    if (cursor->Sees("-") && !cursor->Sees("-]") && cursor->rest().size() > 1) {
      cursor->Take("-");
      ASSIGN_OR_RETURN(const CodePoints high, ParseClassItem(cursor));
      if (!IsOneCharacter(low) || !IsOneCharacter(high) || low[0].low > high[0].low)
        return RegexError(item, "a range must go from a character to one that is not before it");
      low = {{low[0].low, high[0].low}};
    }
    set = Union(set, low);
  }
  return negated ? Complement(set) : set;
}

}  // namespace lorad
