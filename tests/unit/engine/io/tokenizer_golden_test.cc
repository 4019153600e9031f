// Ids and texts against those that the `tokenizers` package gave for the same files.
#include <fstream>
#include <string>
#include <vector>

#include "engine/io/json.h"
#include "engine/io/tokenizer.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

struct Case {
  std::string text;
  std::vector<int32_t> ids;             // special tokens added
  std::vector<int32_t> ids_no_special;  // not added
  std::string decoded;                  // special tokens skipped
};

std::string GoldenDir(const std::string& name) {
  return std::string(LORAD_SOURCE_DIR) + "/tests/golden/" + name;
}

std::vector<Case> ReadCases(const std::string& directory) {
  std::vector<Case> cases;
  std::ifstream file(directory + "/cases.jsonl");
  for (std::string line; std::getline(file, line);) {
    absl::StatusOr<nlohmann::json> json = ParseJson(line, directory);
    if (!json.ok()) {
      ADD_FAILURE() << json.status();
      break;
    }
    cases.push_back(
        {(*json)["text"], (*json)["ids"], (*json)["ids_no_special"], (*json)["decoded"]});
  }
  return cases;
}

class TokenizerGoldenTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string directory = GoldenDir(GetParam());
    cases_ = ReadCases(directory);
    ASSERT_GE(cases_.size(), 100u);
    ASSERT_OK_AND_ASSIGN(tokenizer_, Tokenizer::Load(directory));
  }
  std::vector<Case> cases_;
  std::unique_ptr<const Tokenizer> tokenizer_;
};

TEST_P(TokenizerGoldenTest, EncodesEveryCaseIdForId) {
  for (const Case& c : cases_) {
    ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer_->Encode(c.text));
    EXPECT_EQ(ids, c.ids) << c.text;
    ASSERT_OK_AND_ASSIGN(const auto plain,
                         tokenizer_->Encode(c.text, {.add_special_tokens = false}));
    EXPECT_EQ(plain, c.ids_no_special) << c.text;
  }
}

TEST_P(TokenizerGoldenTest, DecodesEveryCase) {
  for (const Case& c : cases_) EXPECT_EQ(tokenizer_->Decode(c.ids), c.decoded) << c.text;
}

TEST_P(TokenizerGoldenTest, DecodesEveryCaseIncrementally) {
  for (const Case& c : cases_) {
    IncrementalDecoder decoder(tokenizer_.get());
    std::string text;
    for (const int32_t id : c.ids) text += decoder.Push(id);
    EXPECT_EQ(text + decoder.Finish(), c.decoded) << c.text;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, TokenizerGoldenTest,
                         testing::Values("tok-llama3", "tok-llama2", "tok-gpt2", "tok-qwen2",
                                         "tok-metaspace", "tok-mixed"),
                         [](const auto& info) { return std::string(info.param).substr(4); });

}  // namespace
}  // namespace lorad
