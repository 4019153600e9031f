#include "engine/infer/constraint/json_text.h"

#include <algorithm>
#include <map>
#include <utility>

#include "engine/io/utf8.h"
#include "nlohmann/json.hpp"

namespace lorad {
namespace {

constexpr int32_t kMaxIndent = 32;

constexpr CodePointRange kControls = {0, 0x1F};
// Characters with an escape of two characters, and that one's second.
constexpr std::pair<char32_t, char> kShortEscapes[] = {
    {'"', '"'}, {'\\', '\\'}, {'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'},
};

// The hexadecimal digit `value`, in both cases.
CodePoints HexDigit(char32_t value) {
  if (value < 10) return {{'0' + value, '0' + value}};
  return {{'A' + value - 10, 'A' + value - 10}, {'a' + value - 10, 'a' + value - 10}};
}

// What follows the \u of any character, those beyond U+FFFF as a pair of surrogates.
ExpressionPtr AfterUnicodeEscape() {
  const ExpressionPtr digit = OneOf({{'0', '9'}, {'A', 'F'}, {'a', 'f'}});
  const ExpressionPtr two = InOrder({digit, digit});
  const ExpressionPtr d = OneOf(HexDigit(0xD));
  const ExpressionPtr low = InOrder({Literal("\\u"), d, OneOf({{'C', 'F'}, {'c', 'f'}}), two});
  return AnyOf(
      {InOrder({OneOf({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}}), digit, two}),
       InOrder({d, OneOf({{'0', '7'}}), two}),
       InOrder({d, OneOf({{'8', '9'}, {'A', 'B'}, {'a', 'b'}}), two, low})});
}

std::vector<char32_t> CodePointsOf(std::string_view text) {
  std::vector<char32_t> characters;
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    characters.push_back(step.code_point);
    text.remove_prefix(step.length);
  }
  return characters;
}

bool NeedsNoEscape(char32_t c) { return c > kControls.high && c != '"' && c != '\\'; }

ExpressionPtr AnyCharacters() {
  static const auto* const any =
      new ExpressionPtr(Repeated(JsonCharacter(AllCodePoints()), 0, kNoLimit, "a string"));
  return *any;
}

// What may stand after the first `depth` characters, which all `values` have in common, so that the
// whole is none of them.
ExpressionPtr Except(const std::vector<std::vector<char32_t>>& values, size_t depth) {
  std::map<char32_t, std::vector<std::vector<char32_t>>> by_next;
  bool may_end = true;
  CodePoints nexts;
  for (const std::vector<char32_t>& value : values) {
    if (value.size() == depth) {
      may_end = false;
      continue;
    }
    by_next[value[depth]].push_back(value);
    nexts.push_back({value[depth], value[depth]});
  }
  std::vector<ExpressionPtr> ways = {InOrder({JsonCharacter(Complement(nexts)), AnyCharacters()})};
  for (const auto& [next, rest] : by_next)
    ways.push_back(InOrder({JsonCharacter({{next, next}}), Except(rest, depth + 1)}));
  if (may_end) ways.push_back(InOrder({}));
  return AnyOf(std::move(ways));
}

}  // namespace

ExpressionPtr JsonSpace() {
  static const auto* const space = new ExpressionPtr(AnyOf(
      {Literal(" "), InOrder({Literal("\n"), Repeated(Literal(" "), 0, kMaxIndent, "indentation")}),
       InOrder({})}));
  return *space;
}

ExpressionPtr JsonComma() { return InOrder({Literal(","), JsonSpace()}); }
ExpressionPtr JsonColon() { return InOrder({Literal(":"), Maybe(Literal(" "))}); }

ExpressionPtr JsonCharacter(const CodePoints& set) {
  if (set.size() == 1 && set[0].low == set[0].high && NeedsNoEscape(set[0].low)) return OneOf(set);
  const auto has = [&set](char32_t c) {
    return std::any_of(set.begin(), set.end(), [c](const CodePointRange& range) {
      return range.low <= c && c <= range.high;
    });
  };
  CodePoints escaped = {kControls};
  CodePoints letters;
  for (const auto& [character, letter] : kShortEscapes) {
    escaped.push_back({character, character});
    if (has(character))
      letters.push_back({static_cast<char32_t>(letter), static_cast<char32_t>(letter)});
  }
  std::vector<ExpressionPtr> ways;
  if (!letters.empty()) ways.push_back(InOrder({Literal("\\"), OneOf(letters)}));
  for (char32_t high = 0; high <= kControls.high >> 4; ++high) {
    CodePoints lows;
    for (char32_t low = 0; low < 16; ++low) {
      const char32_t c = high << 4 | low;
      const bool is_short = std::any_of(std::begin(kShortEscapes), std::end(kShortEscapes),
                                        [c](const auto& escape) { return escape.first == c; });
      if (!is_short && has(c)) lows = Union(lows, HexDigit(low));
    }
    if (!lows.empty())
      ways.push_back(InOrder({Literal("\\u00"), OneOf(HexDigit(high)), OneOf(lows)}));
  }
  const CodePoints plain = Without(set, escaped);
  if (!plain.empty()) ways.push_back(OneOf(plain));
  return AnyOf(std::move(ways));
}

ExpressionPtr AnyJsonCharacter() {
  CodePoints letters = {{'/', '/'}};
  CodePoints escaped = {kControls};
  for (const auto& [character, letter] : kShortEscapes) {
    escaped.push_back({character, character});
    letters.push_back({static_cast<char32_t>(letter), static_cast<char32_t>(letter)});
  }
  const ExpressionPtr escape =
      AnyOf({OneOf(letters), InOrder({Literal("u"), AfterUnicodeEscape()})});
  return AnyOf({InOrder({Literal("\\"), escape}), OneOf(Complement(escaped))});
}

ExpressionPtr Quoted(ExpressionPtr characters) {
  return InOrder({Literal("\""), std::move(characters), Literal("\"")});
}

ExpressionPtr JsonString(int32_t min, int32_t max, const std::string& where) {
  return Quoted(Repeated(AnyJsonCharacter(), min, max, where));
}

ExpressionPtr JsonTextOf(std::string_view value) {
  std::vector<ExpressionPtr> characters;
  for (const char32_t c : CodePointsOf(value)) characters.push_back(JsonCharacter({{c, c}}));
  return InOrder(std::move(characters));
}

ExpressionPtr JsonTextExcept(const std::vector<std::string>& values) {
  std::vector<std::vector<char32_t>> characters;
  for (const std::string& value : values) characters.push_back(CodePointsOf(value));
  return Except(characters, 0);
}

ExpressionPtr JsonList(const ExpressionPtr& item) {
  return Maybe(InOrder({item, Repeated(InOrder({JsonComma(), item}), 0, kNoLimit, "elements")}));
}

ExpressionPtr Braces(ExpressionPtr inside) {
  return InOrder({Literal("{"), JsonSpace(), std::move(inside), JsonSpace(), Literal("}")});
}

ExpressionPtr Brackets(ExpressionPtr inside) {
  return InOrder({Literal("["), JsonSpace(), std::move(inside), JsonSpace(), Literal("]")});
}

ExpressionPtr JsonConstant(const nlohmann::ordered_json& value) {
  if (value.is_string()) return Quoted(JsonTextOf(value.get_ref<const std::string&>()));
  if (!value.is_structured()) return Literal(value.dump());
  if (value.empty()) return Literal(value.dump());
  std::vector<ExpressionPtr> inside;
  for (const auto& [key, element] : value.items()) {
    if (!inside.empty()) inside.push_back(JsonComma());
    if (value.is_object()) {
      inside.push_back(Quoted(JsonTextOf(key)));
      inside.push_back(JsonColon());
    }
    inside.push_back(JsonConstant(element));
  }
  ExpressionPtr all = InOrder(std::move(inside));
  return value.is_object() ? Braces(std::move(all)) : Brackets(std::move(all));
}

}  // namespace lorad
