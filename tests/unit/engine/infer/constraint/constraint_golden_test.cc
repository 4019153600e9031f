// With the tokenizers of tests/golden: answers drawn at random through the masks decode to texts
// that satisfy what was asked.
#include <memory>
#include <random>
#include <regex>
#include <string>
#include <vector>

#include "engine/infer/constraint/constraint_compiler.h"
#include "engine/io/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/unit/engine/infer/constraint/constraint_fixture.h"

namespace lorad {
namespace {

using nlohmann::json;
using Kind = ConstraintSpec::Kind;

class ConstraintGoldenTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(
        tokenizer_, Tokenizer::Load(std::string(LORAD_SOURCE_DIR "/tests/golden/") + GetParam()));
    // Some ids more than the tokenizer has, as padded output heads do.
    compiler_ =
        std::make_unique<ConstraintCompiler>(tokenizer_.get(), tokenizer_->vocab_size() + 7);
  }

  // The texts of some random answers.
  std::vector<std::string> Draw(const ConstraintSpec& spec, int count, int max_tokens = 400) {
    const auto constraint = compiler_->Compile(spec);
    EXPECT_OK(constraint);
    std::vector<std::string> texts;
    for (int tries = 0; tries < 40 * count && static_cast<int>(texts.size()) < count; ++tries) {
      const auto tokens = DrawTokens(**constraint, max_tokens, random_);
      if (!tokens.has_value()) continue;
      std::string bytes;
      for (const int32_t id : *tokens) {
        EXPECT_FALSE(tokenizer_->IsSpecial(id));
        bytes += tokenizer_->TokenBytes(id);
      }
      texts.push_back(tokenizer_->Decode(*tokens, {.continues_text = true}));
      if (!SpellsItsSpace(bytes)) {
        EXPECT_EQ(texts.back(), bytes);
      }
    }
    EXPECT_EQ(static_cast<int>(texts.size()), count);
    return texts;
  }

  // Byte tokens may spell the character that stands for a space: see Tokenizer::TokenBytes.
  static bool SpellsItsSpace(const std::string& bytes) {
    return bytes.find("\xE2\x96\x81") != std::string::npos;
  }

  std::unique_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<ConstraintCompiler> compiler_;
  std::mt19937 random_{11};
};

TEST_P(ConstraintGoldenTest, TokenBytesAreWhatDecodingGives) {
  for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    const std::string bytes = tokenizer_->TokenBytes(id);
    if (tokenizer_->IsSpecial(id)) {
      EXPECT_EQ(bytes, "");
      continue;
    }
    IncrementalDecoder decoder(tokenizer_.get(), {.continues_text = true});
    std::string text = decoder.Push(id);
    text += decoder.Finish();
    if (text.find("\xEF\xBF\xBD") == std::string::npos) {
      EXPECT_EQ(text, bytes) << id;
    }
  }
  EXPECT_EQ(tokenizer_->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer_->TokenBytes(tokenizer_->vocab_size()), "");
}

TEST_P(ConstraintGoldenTest, RegexAnswersMatch) {
  const std::string pattern = R"((yes|no|maybe): [a-c]{2,5}(,\d{1,3})*)";
  const std::regex expected(pattern);
  for (const std::string& text : Draw({Kind::kRegex, pattern}, 40))
    EXPECT_TRUE(std::regex_match(text, expected)) << text;
}

TEST_P(ConstraintGoldenTest, JsonObjectAnswersParse) {
  for (const std::string& text : Draw({Kind::kJsonObject}, 20)) {
    const json answer = json::parse(text, nullptr, /*allow_exceptions=*/false);
    EXPECT_TRUE(answer.is_object()) << text;
  }
}

TEST_P(ConstraintGoldenTest, SchemaAnswersSatisfyTheSchema) {
  const char* schema = R"({"type":"object","properties":{
      "id":{"type":"integer","minimum":1,"maximum":250},
      "color":{"enum":["red","green","blue"]},
      "tags":{"type":"array","items":{"type":"string","maxLength":4},"minItems":1,"maxItems":3},
      "when":{"type":"string","format":"date"},
      "score":{"type":["number","null"]}},"required":["id","color","tags"]})";
  for (const std::string& text : Draw({Kind::kJsonSchema, schema}, 30)) {
    const json answer = json::parse(text, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(answer.is_object()) << text;
    ASSERT_TRUE(answer.contains("id") && answer.contains("color") && answer.contains("tags"));
    EXPECT_TRUE(answer["id"].is_number_integer());
    EXPECT_GE(answer["id"].get<int>(), 1);
    EXPECT_LE(answer["id"].get<int>(), 250);
    const std::string color = answer["color"].get<std::string>();
    EXPECT_TRUE(color == "red" || color == "green" || color == "blue") << color;
    EXPECT_GE(answer["tags"].size(), 1u);
    EXPECT_LE(answer["tags"].size(), 3u);
    for (const json& tag : answer["tags"]) {
      const std::string value = tag.get<std::string>();
      int characters = 0;
      for (const char c : value) characters += (c & 0xC0) != 0x80;
      EXPECT_LE(characters, 4) << value;
    }
    if (answer.contains("when")) {
      EXPECT_EQ(answer["when"].get<std::string>().size(), 10u);
    }
    if (answer.contains("score")) {
      EXPECT_TRUE(answer["score"].is_number() || answer["score"].is_null());
    }
    for (const auto& [key, value] : answer.items())
      EXPECT_NE(std::string("id color tags when score").find(key), std::string::npos) << key;
  }
}

TEST_P(ConstraintGoldenTest, RecursiveSchemaAnswersNest) {
  const char* schema = R"({"$defs":{"tree":{"type":"object","properties":{
      "v":{"type":"integer","minimum":0,"maximum":9},
      "kids":{"type":"array","items":{"$ref":"#/$defs/tree"},"maxItems":2}},
      "required":["v","kids"]}},"$ref":"#/$defs/tree"})";
  size_t deepest = 0;
  const auto check = [&](const auto& self, const json& tree, size_t depth) -> void {
    deepest = std::max(deepest, depth);
    ASSERT_EQ(tree.size(), 2u);
    ASSERT_TRUE(tree.at("v").is_number_integer());
    ASSERT_LE(tree.at("kids").size(), 2u);
    for (const json& kid : tree.at("kids")) self(self, kid, depth + 1);
  };
  for (const std::string& text : Draw({Kind::kJsonSchema, schema}, 30)) {
    const json answer = json::parse(text, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(answer.is_object()) << text;
    check(check, answer, 1);
  }
  EXPECT_GE(deepest, 2u);
}

TEST_P(ConstraintGoldenTest, CompilesOnceForAll) {
  ASSERT_OK_AND_ASSIGN(const auto first, compiler_->Compile({Kind::kRegex, "a+"}));
  ASSERT_OK_AND_ASSIGN(const auto second, compiler_->Compile({Kind::kRegex, "a+"}));
  ASSERT_OK_AND_ASSIGN(const auto other, compiler_->Compile({Kind::kRegex, "b+"}));
  EXPECT_EQ(first, second);
  EXPECT_NE(first, other);
  ASSERT_OK_AND_ASSIGN(const auto none, compiler_->Compile({}));
  EXPECT_EQ(none, nullptr);
  for (size_t i = 0; i < ConstraintCompiler::kCapacity; ++i)
    ASSERT_OK(compiler_->Compile({Kind::kRegex, "c{" + std::to_string(i) + "}d"}));
  ASSERT_OK_AND_ASSIGN(const auto again, compiler_->Compile({Kind::kRegex, "a+"}));
  EXPECT_NE(first, again) << "it was dropped, and compiled anew";
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, ConstraintGoldenTest,
                         testing::Values("tok-gpt2", "tok-llama2", "tok-llama3", "tok-metaspace",
                                         "tok-mixed", "tok-qwen2"),
                         [](const auto& info) { return std::string(info.param).substr(4); });

TEST(ConstraintCompilerTest, NamesTheFieldThatIsWrong) {
  ConstraintCompiler none(nullptr, 100);
  EXPECT_OK(none.Compile({}));
  EXPECT_THAT(none.Compile({Kind::kRegex, "a"}),
              StatusIs(absl::StatusCode::kFailedPrecondition, "regex needs a tokenizer"));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer,
                       Tokenizer::Load(LORAD_SOURCE_DIR "/tests/golden/tok-gpt2"));
  ConstraintCompiler compiler(tokenizer.get(), tokenizer->vocab_size());
  EXPECT_THAT(compiler.Compile({Kind::kRegex, "(a"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "regex: at byte 0: "));
  EXPECT_THAT(compiler.Compile({Kind::kJsonSchema, R"({"items":{"not":1}})"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "json_schema: at #/items: "));
}

}  // namespace
}  // namespace lorad
