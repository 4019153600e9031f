#include "engine/io/json.h"

#include <string>

#include "engine/io/utf8.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad {
namespace {

using absl::StatusCode;

TEST(JsonTest, ReadsADocument) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(const nlohmann::json json,
                       ReadJsonFile(dir.Write("a.json", R"({"a": [1, 2.5, null], "b": "é"})")));
  EXPECT_EQ(json["a"][1], 2.5);
  EXPECT_EQ(json["b"], "é");
  EXPECT_THAT(ReadJsonFile(dir.File("none")), StatusIs(StatusCode::kNotFound, "none"));
}

TEST(JsonTest, RefusesWhatReadersUnderstandDifferently) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  const struct {
    std::string text;
    const char* error;
  } cases[] = {
      {"", "syntax error"},
      {"{\n  \"a\": tru\n}", "at line 2, column"},
      {R"({"a": 1, "a": 2})", "\"a\" is given twice"},
      {R"({"x": {"\u0061": 1, "a": 2}})", "\"a\" is given twice"},
      {R"({"a": 1} {"b": 2})", "syntax error"},
      {std::string("{\"a\": 1}\0", 9), "NUL byte at line 1, column 9"},
      {"\xEF\xBB\xBF{}", "byte order mark"},
      {"{\"a\": \"\xff\"}", "syntax error"},
      {"{\"a\": \"\xed\xa0\x80\"}", "syntax error"},
      {"[01]", "syntax error"},
      {"[1,]", "syntax error"},
      {"[NaN]", "syntax error"},
      {deep, "deeper than 64"},
  };
  for (const auto& c : cases) {
    const absl::Status status = ParseJson(c.text, "where.json").status();
    EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, c.error)) << c.text.substr(0, 50);
    EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, "where.json: "));
    const std::string message(status.message());
    EXPECT_EQ(FirstInvalidUtf8(message), message.size());
    EXPECT_LT(message.size(), 300u);
  }
}

TEST(JsonTest, TakesNestingUpToTheLimit) {
  EXPECT_OK(ParseJson(std::string(kMaxJsonDepth, '[') + std::string(kMaxJsonDepth, ']'), "x"));
}

TEST(Utf8Test, FindsTheFirstInvalidByte) {
  const struct {
    std::string text;
    size_t valid;
  } cases[] = {
      {"", 0},
      {"abc", 3},
      {"é你😀", 9},
      {"a\x80", 1},
      {"\xC0\x80", 0},          // overlong NUL
      {"\xE0\x9F\xBF", 0},      // overlong U+07FF
      {"\xED\xA0\x80", 0},      // surrogate
      {"\xF4\x90\x80\x80", 0},  // above U+10FFFF
      {"\xF4\x8F\xBF\xBF", 4},  // U+10FFFF
      {"\xF5", 0},
      {"ab\xE4\xBD", 2},    // cut short
      {"\xEF\xBF\xBF", 3},  // a noncharacter is well-formed
  };
  for (const auto& c : cases) EXPECT_EQ(FirstInvalidUtf8(c.text), c.valid) << c.text;
}

// Unicode 15, tables 3-8 to 3-11: how many U+FFFD each ill-formed sequence gives.
TEST(Utf8AssemblerTest, ReplacesMaximalSubparts) {
  const struct {
    std::string bytes, text;
  } cases[] = {
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA\uFFFD\uFFFDB"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "\uFFFD\uFFFD\uFFFD\uFFFDA"},
      {"x\xF0\x9F\x98", "x\uFFFD"},
      {"\xF0\x9F\x98\x80", "😀"},
  };
  for (const auto& c : cases) {
    // The same however the bytes arrive.
    for (size_t step = 1; step <= c.bytes.size(); ++step) {
      Utf8Assembler assembler;
      std::string text;
      for (size_t at = 0; at < c.bytes.size(); at += step) {
        assembler.Push(std::string_view(c.bytes).substr(at, step), &text);
        EXPECT_EQ(FirstInvalidUtf8(text), text.size());
      }
      assembler.Finish(&text);
      EXPECT_EQ(text, c.text) << step;
    }
  }
}

TEST(Utf8Test, AppendsWhatItReads) {
  for (const char32_t c : {U'\0', U'a', U'\x7f', U'\x80', U'\u07ff', U'\u0800', U'\uffff',
                           U'\U00010000', U'\U0010ffff'}) {
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Step step = NextUtf8(text);
    EXPECT_EQ(step.kind, Utf8Step::Kind::kCharacter);
    EXPECT_EQ(step.code_point, c);
    EXPECT_EQ(step.length, text.size());
  }
}

}  // namespace
}  // namespace lorad
