// The language of regular expressions against std::regex (ECMAScript), and what is refused.
#include "engine/infer/constraint/regex.h"

#include <random>
#include <regex>
#include <string>
#include <vector>

#include "engine/io/utf8.h"
#include "tests/unit/engine/infer/constraint/constraint_fixture.h"

namespace lorad {
namespace {

using absl::StatusCode;

bool RegexMatches(std::string_view pattern, std::string_view text) {
  return Matches(WithVocabulary(RegexGrammar(pattern)), text);
}

TEST(RegexTest, LiteralsClassesAndCounts) {
  EXPECT_TRUE(RegexMatches("abc", "abc"));
  EXPECT_FALSE(RegexMatches("abc", "ab"));
  EXPECT_FALSE(RegexMatches("abc", "abcd"));
  EXPECT_TRUE(RegexMatches("", ""));
  EXPECT_TRUE(RegexMatches("^a|b$", "a")) << "anchors say nothing new";
  EXPECT_TRUE(RegexMatches("^a|b$", "b"));
  EXPECT_FALSE(RegexMatches("^a|b$", "ab"));
  EXPECT_TRUE(RegexMatches(R"(\d{3}-\d{4})", "555-0123"));
  EXPECT_FALSE(RegexMatches(R"(\d{3}-\d{4})", "555-012"));
  EXPECT_TRUE(RegexMatches("a{2,}", "aaaa"));
  EXPECT_FALSE(RegexMatches("a{2,3}", "aaaa"));
  EXPECT_TRUE(RegexMatches("a{0}b", "b"));
  EXPECT_TRUE(RegexMatches("(?:yes|no)+?", "yesnoyes"));
  EXPECT_TRUE(RegexMatches("(?<y>x)(?P<z>y)", "xy"));
  EXPECT_TRUE(RegexMatches(R"(\{"a": [^}]*\}|{x})", R"({"a": 1})"));
  EXPECT_TRUE(RegexMatches(R"({x}])", "{x}]")) << "braces and a closing bracket for themselves";
  EXPECT_TRUE(RegexMatches(R"([\]\-a^-])", "]"));
  EXPECT_TRUE(RegexMatches(R"([\]\-a^-])", "-"));
  EXPECT_TRUE(RegexMatches(R"([\b])", "\b"));
  EXPECT_TRUE(RegexMatches(R"(\x41\u0042\u{1F600}\0)", std::string("AB\U0001F600\0", 7)));
}

TEST(RegexTest, CharactersAreUnicode) {
  EXPECT_TRUE(RegexMatches(".", "\u00e9"));
  EXPECT_TRUE(RegexMatches(".", "\U0001F642"));
  EXPECT_FALSE(RegexMatches(".", "\xC3")) << "half a character";
  EXPECT_FALSE(RegexMatches(".", "\xED\xA0\x80")) << "a surrogate";
  EXPECT_FALSE(RegexMatches(".", "\xC0\x80")) << "an overlong form";
  EXPECT_FALSE(RegexMatches(".", "\n"));
  EXPECT_FALSE(RegexMatches(".", "\u2028"));
  EXPECT_TRUE(RegexMatches("[\u03b1-\u03c9]+", "\u03bb\u03bf\u03b3\u03bf\u03c2"));
  EXPECT_FALSE(RegexMatches("[^\u03b1-\u03c9]", "\u03bb"));
  EXPECT_TRUE(RegexMatches("[^\u03b1-\u03c9]", "\U0010FFFF"));
  EXPECT_TRUE(RegexMatches(R"(\s\S\w\W\d\D)", "\u00a0\u00e9_\u00e95x"));
  EXPECT_FALSE(RegexMatches(R"(\w)", "\u00e9"));
}

// Every character of a range, and none outside: the ranges of bytes are exact.
TEST(CodePointsTest, Utf8SequencesAreExact) {
  std::mt19937 random(1);
  const auto any = [&] { return static_cast<char32_t>(random() % (kLastCodePoint + 1)); };
  for (int round = 0; round < 40; ++round) {
    CodePoints set;
    for (int i = 0; i < 3; ++i) {
      const char32_t low = random() % 2 == 0 ? any() : any() % 0x900;
      set.push_back(
          {low, std::min<char32_t>(kLastCodePoint, low + any() % (1 << (random() % 20)))});
    }
    set = Normalized(set);
    const std::vector<ByteSequence> sequences = Utf8Sequences(set);
    const auto matches = [&](char32_t c) {
      std::string bytes;
      AppendUtf8(c, &bytes);
      int count = 0;
      for (const ByteSequence& sequence : sequences) {
        bool equal = sequence.size() == bytes.size();
        for (size_t i = 0; equal && i < bytes.size(); ++i) {
          const auto byte = static_cast<uint8_t>(bytes[i]);
          equal = sequence[i].low <= byte && byte <= sequence[i].high;
        }
        count += equal;
      }
      return count;
    };
    const auto check = [&](char32_t c) {
      if (c > kLastCodePoint || (c >= 0xD800 && c <= 0xDFFF)) return;
      int inside = 0;
      for (const CodePointRange& range : set) inside += range.low <= c && c <= range.high;
      ASSERT_EQ(matches(c), inside) << std::hex << static_cast<uint32_t>(c);
    };
    for (const CodePointRange& range : set) {
      for (const char32_t c : {range.low, range.high}) {
        for (const int step : {-1, 0, 1}) check(static_cast<char32_t>(c + step));
      }
    }
    for (int i = 0; i < 2000; ++i) check(any());
  }
}

TEST(CodePointsTest, SetsAreAlgebra) {
  const CodePoints letters = {{'a', 'z'}}, vowels = {{'a', 'a'}, {'e', 'e'}, {'i', 'i'}};
  EXPECT_EQ(Complement(Complement(letters)), letters);
  EXPECT_EQ(Without(letters, vowels), (CodePoints{{'b', 'd'}, {'f', 'h'}, {'j', 'z'}}));
  EXPECT_EQ(Union({{'a', 'c'}}, {{'d', 'f'}, {'b', 'b'}}), (CodePoints{{'a', 'f'}}));
  EXPECT_TRUE(Without(AllCodePoints(), AllCodePoints()).empty());
  EXPECT_EQ(AllCodePoints(), (CodePoints{{0, 0xD7FF}, {0xE000, kLastCodePoint}}));
}

// A random expression over few letters, so that random texts match now and then.
std::string RandomPattern(std::mt19937& random, int depth) {
  static const char* const kAtoms[] = {"a", "b", "c", ".", "[ab]", "[^a]", "[b-c]", "\\w", "\\d"};
  static const char* const kCounts[] = {"*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}", "*?"};
  std::string pattern;
  const int parts = static_cast<int>(random() % 4);
  for (int i = 0; i < parts; ++i) {
    if (depth > 0 && random() % 3 == 0)
      pattern += (random() % 2 ? "(" : "(?:") + RandomPattern(random, depth - 1) + ")";
    else
      pattern += kAtoms[random() % std::size(kAtoms)];
    if (random() % 3 == 0) pattern += kCounts[random() % std::size(kCounts)];
  }
  if (depth > 0 && random() % 3 == 0) pattern += "|" + RandomPattern(random, depth - 1);
  return pattern;
}

TEST(RegexTest, AgreesWithStdRegex) {
  std::mt19937 random(7);
  int matched = 0, refused = 0;
  for (int round = 0; round < 400; ++round) {
    const std::string pattern = RandomPattern(random, 2);
    const Constraint ours = WithVocabulary(RegexGrammar(pattern));
    const std::regex theirs(pattern, std::regex::ECMAScript);
    for (int i = 0; i < 60; ++i) {
      std::string text;
      for (int n = static_cast<int>(random() % 7); n > 0; --n) text += "abc1\n"[random() % 5];
      const bool expected = std::regex_match(text, theirs);
      ASSERT_EQ(Matches(ours, text), expected) << pattern << " on " << testing::PrintToString(text);
      (expected ? matched : refused) += 1;
    }
    // And the other way: what is drawn through the masks matches.
    for (int i = 0; i < 5; ++i) {
      const auto tokens = DrawTokens(ours, 60, random);
      if (!tokens.has_value()) continue;
      std::string text;
      for (const int32_t byte : *tokens) text += static_cast<char>(byte);
      bool ascii = true;  // std::regex knows bytes, not characters
      for (const char c : text) ascii = ascii && static_cast<unsigned char>(c) < 0x80;
      if (ascii) {
        ASSERT_TRUE(std::regex_match(text, theirs)) << pattern << " drew " << text;
      }
    }
  }
  EXPECT_GT(matched, 2000);  // both answers were put to the test
  EXPECT_GT(refused, 2000);
}

TEST(RegexTest, NamesWhatItRefusesAndWhere) {
  const auto refuses = [](std::string_view pattern, std::string_view text) {
    EXPECT_THAT(ParseRegex(pattern, {}), StatusIs(StatusCode::kInvalidArgument, std::string(text)))
        << pattern;
  };
  refuses("ab(?=c)", "at byte 2: lookahead (?=...) is not supported");
  refuses("(?!x)", "at byte 0: lookahead (?!");
  refuses("(?<=a)b", "lookbehind (?<=");
  refuses("(?<!a)b", "lookbehind (?<!");
  refuses(R"((a)\1)", R"(at byte 3: a backreference (\1))");
  refuses(R"(\k<a>)", "a backreference");
  refuses(R"(a\b)", R"(a word boundary (\b))");
  refuses(R"(\p{L})", R"(a Unicode property (\p))");
  refuses(R"(\Aa)", "an anchor in this form");
  refuses(R"(\q)", R"(an unknown escape (\q))");
  refuses(R"(\01)", "octal");
  refuses(R"(\x4)", "incomplete escape");
  refuses(R"(\u{110000})", "incomplete escape");
  refuses(R"(\ud83d)", "a surrogate");
  refuses("a\\", "a backslash at the end");
  refuses("(?i)a", "inline flags");
  refuses("(?>a)", "an atomic group");
  refuses("a*+", "possessive");
  refuses("a**", R"(at byte 2: "*" has nothing to repeat)");
  refuses("a{2}{3}", R"("{" has nothing to repeat)");
  refuses("+a", R"("+" has nothing to repeat)");
  refuses("a{3,2}", "largest number is below");
  refuses("a{10001}", "above the limit of 10000");
  refuses("a{2", R"(a count without its "}")");
  refuses("a{,2}", "{0,n}");
  refuses("[]a]", "a class that is empty");
  refuses("[a", R"(a class without its closing "]")");
  refuses("[z-a]", "a range must go");
  refuses(R"([\d-z])", "a range must go");
  refuses("[[:alpha:]]", "a POSIX class");
  refuses("(a", "at byte 0: a '(' without its ')'");
  refuses("a)", "at byte 1: a ')' without its '('");
  refuses("a(^b)", "an anchor (^) inside");
  refuses("a$b", R"("$" before the end)");
  refuses("a\xFF", "at byte 1: the pattern is not valid UTF-8");
  refuses(std::string(101, '(') + std::string(101, ')'), "nested deeper than 100");
  refuses(std::string(kMaxPatternBytes + 1, 'a'), "the pattern has 16385 bytes");
}

TEST(RegexTest, SizeIsBounded) {
  EXPECT_OK(RegexGrammar("[a-z]{0,10000}"));
  EXPECT_THAT(RegexGrammar("((a{1000}){1000}){1000}"),
              StatusIs(StatusCode::kInvalidArgument,
                       "more than 1048576 nodes, which are left of 1048576 for the whole "
                       "constraint; the limit was reached at the repetition that ends at byte"));
  // 2^40 states tell which letter stood 40 places before.
  EXPECT_THAT(RegexGrammar("(a|b)*a(a|b){40}"),
              StatusIs(StatusCode::kInvalidArgument,
                       "the pattern: its deterministic automaton needs more than 16777216 steps to "
                       "build, which are left of 16777216 for the whole constraint"));
}

TEST(RegexTest, WhatNothingMatchesIsRefused) {
  EXPECT_THAT(RegexGrammar(R"(a[^\s\S]b)"),
              StatusIs(StatusCode::kInvalidArgument, "no finite text satisfies it"));
}

}  // namespace
}  // namespace lorad
