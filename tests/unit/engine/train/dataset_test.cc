#include "engine/train/dataset.h"

#include <memory>
#include <string>

#include "engine/io/file.h"
#include "engine/io/sha256.h"
#include "engine/ops/cross_entropy.h"
#include "engine/train/sample_line.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr int32_t kBos = 0, kEos = 1;  // of tok-llama3

class DatasetTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(
        tokenizer_, Tokenizer::Load(std::string(LORAD_SOURCE_DIR) + "/tests/golden/tok-llama3"));
    config_.vocab_size = 2048;
    config_.max_position_embeddings = 512;
    config_.eos_token_ids = {kEos};
  }

  absl::StatusOr<TokenDataset> Read(const std::string& content, int32_t max_seq_length = 512) {
    path_ = dir_.path() + "/train.jsonl";
    const absl::Status written = WriteFileAtomically(path_, content);
    if (!written.ok()) return written;
    return ReadDataset(path_, max_seq_length, config_, tokenizer_.get());
  }

  std::vector<int32_t> Encode(const std::string& text) {
    return *tokenizer_->Encode(text, {.add_special_tokens = false, .allow_special = false});
  }

  const TempDir dir_;
  std::string path_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  ModelConfig config_;
};

TEST_F(DatasetTest, PromptAndCompletionAreEncodedApartAndTheCompletionIsTrained) {
  ASSERT_OK_AND_ASSIGN(const TokenDataset data,
                       Read(R"({"prompt": "the cat", "completion": " sat"})"));
  std::vector<int32_t> ids = {kBos};
  for (const int32_t id : Encode("the cat")) ids.push_back(id);
  std::vector<int32_t> labels(ids.size(), kIgnoreLabel);
  for (const int32_t id : Encode(" sat")) {
    ids.push_back(id);
    labels.push_back(id);
  }
  ids.push_back(kEos);
  labels.push_back(kEos);
  EXPECT_THAT(data.sample(0).ids, ElementsAreArray(ids));
  EXPECT_THAT(data.sample(0).labels, ElementsAreArray(labels));
  EXPECT_EQ(data.report.kind, "prompt_completion");
  EXPECT_EQ(data.report.target_tokens, static_cast<int64_t>(Encode(" sat").size()) + 1);
}

TEST_F(DatasetTest, TextIsTrainedWholeSaveForItsStart) {
  ASSERT_OK_AND_ASSIGN(const TokenDataset data, Read("{\"text\": \"hello\"}\n"));
  const std::vector<int32_t> hello = Encode("hello");
  EXPECT_EQ(data.sample(0).ids.front(), kBos);
  EXPECT_EQ(data.sample(0).ids.back(), kEos);
  EXPECT_EQ(data.sample(0).labels.front(), kIgnoreLabel);
  EXPECT_EQ(data.report.tokens, static_cast<int64_t>(hello.size()) + 2);
  EXPECT_EQ(data.report.target_tokens, static_cast<int64_t>(hello.size()) + 1);
  EXPECT_EQ(data.report.kind, "text");
}

TEST_F(DatasetTest, TokensAreTakenAsTheyAre) {
  ASSERT_OK_AND_ASSIGN(const TokenDataset data,
                       Read(R"({"input_ids": [5, 6, 7], "labels": [-100, -100, 7]})"));
  EXPECT_THAT(data.sample(0).ids, ElementsAre(5, 6, 7));
  EXPECT_THAT(data.sample(0).labels, ElementsAre(kIgnoreLabel, kIgnoreLabel, 7));
  EXPECT_EQ(data.report.target_tokens, 1);
}

TEST_F(DatasetTest, TextThatSpellsASpecialTokenStaysText) {
  ASSERT_OK_AND_ASSIGN(const TokenDataset data,
                       Read(R"({"prompt": "<|im_end|>", "completion": "<|end_of_text|>x"})"));
  int32_t special = 0;
  for (const int32_t id : data.ids) special += tokenizer_->IsSpecial(id);
  EXPECT_EQ(special, 2);  // BOS and EOS, which we put there
}

TEST_F(DatasetTest, EndTokenIsOneThatGenerationStopsAt) {
  config_.eos_token_ids = {3, kEos};  // the tokenizer itself names none
  ASSERT_OK_AND_ASSIGN(const TokenDataset data, Read(R"({"text": "hello"})"));
  EXPECT_EQ(data.ids.back(), 3);
  config_.eos_token_ids = {};
  EXPECT_THAT(Read(R"({"text": "hello"})"), StatusIs(kInvalid, "end-of-sequence token"));
}

TEST_F(DatasetTest, LineEndsAndBlankLinesDoNotMatter) {
  const std::string a = R"({"input_ids": [1, 2], "labels": [1, 2]})",
                    b = R"({"input_ids": [3, 4], "labels": [3, 4]})";
  ASSERT_OK_AND_ASSIGN(const TokenDataset plain, Read(a + "\n" + b + "\n"));
  for (const std::string& content :
       {a + "\n" + b, a + "\r\n" + b + "\r\n", "\n" + a + "\n  \n" + b + "\n\n"}) {
    ASSERT_OK_AND_ASSIGN(const TokenDataset data, Read(content));
    EXPECT_EQ(data.ids, plain.ids);
    EXPECT_EQ(data.sha256, Sha256Hex(content));
  }
}

TEST_F(DatasetTest, LongSamplesLoseTheirEndAndAreCounted) {
  const std::string content = R"({"input_ids": [1,2,3,4,5,6], "labels": [-100,2,3,4,5,6]})"
                              "\n"
                              R"({"input_ids": [1,2], "labels": [1,2]})";
  ASSERT_OK_AND_ASSIGN(const TokenDataset data, Read(content, 4));
  EXPECT_THAT(data.sample(0).ids, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(data.report.truncated_samples, 1);
  EXPECT_EQ(data.report.longest_sample_tokens, 6);
  EXPECT_EQ(data.report.tokens, 6);
  EXPECT_EQ(data.report.target_tokens, 4);
  EXPECT_EQ(data.report.samples, 2);
}

TEST_F(DatasetTest, ErrorsNameTheLineAndWhatIsWrong) {
  const std::string good = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";
  const std::pair<const char*, const char*> cases[] = {
      {"{\"prompt\": \"a\", \"completion\": \"b\"", "line 3: syntax error"},
      {"{\"prompt\": \"a\" \"completion\"}", "at column 27"},
      {"[1]", "line 3: the line is [1] (array); an object is needed"},
      {"3", "line 3: the line is 3 (number)"},
      {"{}", "line 3: the object is empty"},
      {"{\"prompt\": \"a\"}", "line 3: field \"completion\" is missing"},
      {"{\"completion\": \"a\"}", "line 3: field \"prompt\" is missing"},
      {"{\"prompt\": \"a\", \"completion\": null}", "line 3: field \"completion\" is null (null)"},
      {"{\"prompt\": 3, \"completion\": \"b\"}", "line 3: field \"prompt\" is 3 (number)"},
      {"{\"prompt\": \"a\", \"completion\": \"b\", \"id\": 1}",
       "line 3: field \"id\" is not known"},
      {"{\"prompt\": \"a\", \"prompt\": \"b\", \"completion\": \"c\"}",
       "\"prompt\" is given twice"},
      {"{\"prompt\": \"a\", \"completion\": \"\"}", "line 3: field \"completion\" has no token"},
      {"{\"text\": \"a\"}", "line 3: the sample is of kind text, those before it of kind prompt_"},
      {"{\"question\": \"a\"}", "line 3: unknown kind of sample with field \"question\""},
      {"{\"prompt\": \"\xff\", \"completion\": \"b\"}", "line 3: "},
      {"{\"prompt\": \"\\ud800\", \"completion\": \"b\"}", "line 3: "},
  };
  for (const auto& [line, message] : cases) {
    SCOPED_TRACE(line);
    const auto data = Read(good + "\n" + line + "\n");
    EXPECT_THAT(data, StatusIs(kInvalid, message));
    EXPECT_THAT(data, StatusIs(kInvalid, path_));
  }
}

TEST_F(DatasetTest, ErrorsOfTokenIdsNameTheEntry) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"input_ids": [1, 2048], "labels": [1, 2]})",
       "input_ids[1] is 2048; a token id in [0, 2048)"},
      {R"({"input_ids": [-1, 2], "labels": [1, 2]})", "input_ids[0] is -1"},
      {R"({"input_ids": [-100, 2], "labels": [1, 2]})", "input_ids[0] is -100"},
      {R"({"input_ids": [1, 2], "labels": [1, -99]})",
       "labels[1] is -99; a token id in [0, 2048) or -100"},
      {R"({"input_ids": [1.5, 2], "labels": [1, 2]})", "input_ids[0] is 1.5"},
      {R"({"input_ids": [18446744073709551615, 2], "labels": [1, 2]})",
       "input_ids[0] is 18446744073709551615"},
      {R"({"input_ids": [true, 2], "labels": [1, 2]})", "input_ids[0] is true"},
      {R"({"input_ids": "12", "labels": [1, 2]})", "field \"input_ids\" is \"12\" (string)"},
      {R"({"input_ids": [1, 2, 3], "labels": [1, 2]})", "labels has 2 entries, input_ids has 3"},
      {R"({"input_ids": [1, 2], "labels": [-100, -100]})", "no token in the loss"},
      {R"({"input_ids": [1, 2], "labels": [1, -100]})", "no token in the loss"},
      {R"({"input_ids": [], "labels": []})", "no token in the loss"},
      {R"({"input_ids": [1, 2]})", "field \"labels\" is missing"},
  };
  for (const auto& [line, message] : cases) {
    SCOPED_TRACE(line);
    EXPECT_THAT(Read(std::string(line) + "\n"), StatusIs(kInvalid, message));
    EXPECT_THAT(Read(std::string(line) + "\n"), StatusIs(kInvalid, "train.jsonl line 1: "));
  }
}

TEST_F(DatasetTest, ATruncatedPromptLeavesNothingToTrain) {
  EXPECT_THAT(Read(R"({"prompt": "one two three four five six", "completion": " seven"})", 5),
              StatusIs(kInvalid, "at max_seq_length 5; raise it or shorten the prompt"));
}

TEST_F(DatasetTest, RefusesFilesThatAreNotJsonl) {
  EXPECT_THAT(Read(""), StatusIs(kInvalid, "the file holds no sample"));
  EXPECT_THAT(Read("\n \n"), StatusIs(kInvalid, "the file holds no sample"));
  EXPECT_THAT(Read("\xef\xbb\xbf{\"text\": \"a\"}"), StatusIs(kInvalid, "byte order mark"));
  EXPECT_THAT(Read(std::string("\xff\xfe{\0", 4)), StatusIs(kInvalid, "UTF-16"));
  EXPECT_THAT(Read("{\"text\": \"" + std::string(kMaxLineBytes, 'a') + "\"}"),
              StatusIs(kInvalid, "line 1: the line has 16777228 bytes; at most 16777216"));
  EXPECT_THAT(ReadDataset(dir_.path() + "/absent", 8, config_, tokenizer_.get()),
              StatusIs(absl::StatusCode::kNotFound, "absent"));
}

TEST_F(DatasetTest, SaysWhenTextNeedsATokenizer) {
  tokenizer_ = nullptr;
  EXPECT_THAT(Read(R"({"text": "a"})"), StatusIs(kInvalid, "has no tokenizer.json"));
  EXPECT_OK(Read(R"({"input_ids": [1, 2], "labels": [1, 2]})"));
}

TEST_F(DatasetTest, RefusesATokenizerOfAnotherModel) {
  config_.vocab_size = 4;
  EXPECT_THAT(Read(R"({"text": "hello"})"), StatusIs(kInvalid, "the model's vocabulary ends at 4"));
}

TEST_F(DatasetTest, BoundsTheSequenceLengthByTheContext) {
  for (const int32_t length : {-1, 0, 1, 513})
    EXPECT_THAT(Read(R"({"text": "a"})", length),
                StatusIs(kInvalid, "it must be in [2, 512], the context of the model"));
}

}  // namespace
}  // namespace lorad
