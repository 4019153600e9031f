// Damaged, hostile and unsupported tokenizer.json files: each is one error that names the item.
#include <chrono>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "engine/io/tokenizer.h"
#include "engine/io/utf8.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/engine/io/tokenizer_fixture.h"

namespace lorad {
namespace {

using absl::StatusCode;
using nlohmann::json;

struct Malformed {
  const char* name;
  std::function<void(json&)> change;  // of a document that is in order
  StatusCode code;
  const char* error;
};

std::ostream& operator<<(std::ostream& out, const Malformed& m) { return out << m.name; }

constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;
constexpr StatusCode kUnimplemented = StatusCode::kUnimplemented;

// Changes of the byte-level document.
std::vector<Malformed> VocabularyCases() {
  const auto vocab = [](json& d) -> json& { return d["model"]["vocab"]; };
  return {
      {"NoTokens", [=](json& d) { vocab(d) = json::object(), d["added_tokens"] = json::array(); },
       kInvalid, "no tokens"},
      {"IdGap", [=](json& d) { vocab(d)["x1"] = 262; }, kInvalid, "id 261 has no token"},
      {"IdTwice", [=](json& d) { vocab(d)["abx"] = 256; }, kInvalid, "id 256 belongs to"},
      {"IdTwiceByAddedToken", [](json& d) { d["added_tokens"][0]["id"] = 256; }, kInvalid,
       "id 256 belongs to the tokens \"ab\" and \"<s>\""},
      {"TokenWithTwoIds", [=](json& d) { vocab(d)["<s>"] = 261; }, kInvalid,
       "token \"<s>\" has the ids 261 and 259"},
      {"IdNegative", [=](json& d) { vocab(d)["ab"] = -1; }, kInvalid, "token \"ab\""},
      {"IdTwoTo31", [=](json& d) { vocab(d)["ab"] = int64_t{1} << 31; }, kInvalid, "2147483648"},
      {"IdFraction", [=](json& d) { vocab(d)["ab"] = 256.5; }, kInvalid, "256.5"},
      {"IdString", [=](json& d) { vocab(d)["ab"] = "256"; }, kInvalid, "token \"ab\""},
      {"IdHuge", [=](json& d) { vocab(d)["zzz"] = 2147483647; }, kInvalid, "id 261 has no token"},
      {"EmptyToken", [=](json& d) { vocab(d)[""] = 261; }, kInvalid, "id 261 is empty"},
      {"VocabIsAnArray", [=](json& d) { vocab(d) = json::array(); }, kInvalid, "\"vocab\" object"},
      {"NoModel", [](json& d) { d.erase("model"); }, kInvalid, "model is missing"},
      {"AddedTokenEmpty", [](json& d) { d["added_tokens"][1]["content"] = ""; }, kInvalid,
       "added_tokens, entry 1"},
      {"AddedTokenOfOneMegabyte",
       [](json& d) { d["added_tokens"][1]["content"] = std::string(1 << 20, 'x'); }, kInvalid,
       "1048576 bytes, the limit is 4096"},
      {"AddedTokensAnObject", [](json& d) { d["added_tokens"] = json::object(); }, kInvalid,
       "added_tokens: not an array"},
      {"AddedTokenFlagIsANumber", [](json& d) { d["added_tokens"][1]["special"] = 1; }, kInvalid,
       "\"special\" must be true or false"},
  };
}

std::vector<Malformed> ModelCases() {
  const auto model = [](json& d) -> json& { return d["model"]; };
  return {
      {"MergeOfUnknownToken",
       [=](json& d) {
         model(d)["merges"].push_back({"ab", "nope"});
       },
       kInvalid, "merge 3: token \"nope\" is not in the vocabulary"},
      {"MergeIntoUnknownToken",
       [=](json& d) {
         model(d)["merges"].push_back({"b", "a"});
       },
       kInvalid, "merge 3: token \"ba\""},
      {"MergeWithItself",
       [=](json& d) {
         model(d)["merges"].push_back({"abc", "abc"});
       },
       kInvalid, "token \"abcabc\""},
      {"MergeOfOne", [=](json& d) { model(d)["merges"].push_back({"ab"}); }, kInvalid,
       "merge 3 is not two tokens"},
      {"MergeTextOfThree", [=](json& d) { model(d)["merges"].push_back("a b c"); }, kInvalid,
       "merge 3 \"a b c\" is not two tokens"},
      {"MergeIsANumber", [=](json& d) { model(d)["merges"].push_back(7); }, kInvalid, "merge 3"},
      {"NoMerges", [=](json& d) { model(d).erase("merges"); }, kInvalid, "\"merges\""},
      {"Unigram", [=](json& d) { model(d)["type"] = "Unigram"; }, kUnimplemented, "\"Unigram\""},
      {"WordPiece", [=](json& d) { model(d)["type"] = "WordPiece"; }, kUnimplemented, "WordPiece"},
      {"Dropout", [=](json& d) { model(d)["dropout"] = 0.1; }, kUnimplemented, "dropout 0.1"},
      {"Suffix", [=](json& d) { model(d)["end_of_word_suffix"] = "</w>"; }, kUnimplemented, "</w>"},
      {"Prefix", [=](json& d) { model(d)["continuing_subword_prefix"] = "##"; }, kUnimplemented,
       "##"},
      {"UnknownTokenUnknown", [=](json& d) { model(d)["unk_token"] = "[UNK]"; }, kInvalid,
       "unk_token \"[UNK]\""},
      {"ModelFieldUnknown", [=](json& d) { model(d)["sampling"] = 1; }, kUnimplemented,
       "\"sampling\""},
      {"TopLevelFieldUnknown", [](json& d) { d["magic"] = 1; }, kUnimplemented, "\"magic\""},
  };
}

std::vector<Malformed> StageCases() {
  const auto set = [](const char* stage, const char* text) {
    return [=](json& d) { d[stage] = json::parse(text); };
  };
  return {
      {"Normalizer", set("normalizer", R"({"type": "BertNormalizer"})"), kUnimplemented,
       "normalizer: BertNormalizer is not supported"},
      {"NormalizerInSequence",
       set("normalizer", R"({"type": "Sequence", "normalizers": [{"type": "Nmt"}]})"),
       kUnimplemented, "normalizer: Sequence: Nmt"},
      {"NormalizerField", set("normalizer", R"({"type": "NFC", "x": 1})"), kUnimplemented, "\"x\""},
      {"NormalizerWithoutType", set("normalizer", R"({})"), kInvalid, "\"type\" must be a string"},
      {"ReplaceWithGroups",
       set("normalizer",
           R"json({"type": "Replace", "pattern": {"Regex": "(a)"}, "content": "$1"})json"),
       kUnimplemented, "groups"},
      {"ReplaceWithoutPattern", set("normalizer", R"({"type": "Replace", "content": "x"})"),
       kInvalid, "no pattern"},
      {"PreTokenizer", set("pre_tokenizer", R"({"type": "UnicodeScripts"})"), kUnimplemented,
       "pre_tokenizer: UnicodeScripts"},
      {"SplitBehavior",
       set("pre_tokenizer",
           R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Torn", "invert": false})"),
       kUnimplemented, "\"Torn\""},
      {"SplitSyntax",
       set("pre_tokenizer",
           R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"})"),
       kInvalid, "expression \"(a\""},
      {"SplitDialect",
       set("pre_tokenizer",
           R"({"type": "Split", "pattern": {"Regex": "[a&&b]"}, "behavior": "Isolated"})"),
       kUnimplemented, "&&"},
      {"ByteLevelNotLast",
       set("pre_tokenizer",
           R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]})"),
       kUnimplemented, "Digits after ByteLevel"},
      {"MetaspaceScheme",
       set("pre_tokenizer",
           R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "twice"})"),
       kUnimplemented, "twice"},
      {"MetaspaceContradiction",
       set("pre_tokenizer", R"({"type": "Metaspace", "replacement": "▁", "add_prefix_space": false,
                                "prepend_scheme": "always"})"),
       kInvalid, "contradicts"},
      {"MetaspaceReplacement",
       set("pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})"), kInvalid,
       "one character"},
      {"Decoder", set("decoder", R"({"type": "CTC"})"), kUnimplemented, "decoder: CTC"},
      {"DecoderAfterFuse", set("decoder", R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
                          {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}]})"),
       kUnimplemented, "after Fuse"},
      {"DecoderRegex",
       set("decoder", R"({"type": "Replace", "pattern": {"Regex": "a"}, "content": "b"})"),
       kUnimplemented, "String pattern"},
      {"PostProcessor", set("post_processor", R"({"type": "BertProcessing"})"), kUnimplemented,
       "post_processor: BertProcessing"},
      {"TemplateTokenMissing",
       set("post_processor", R"({"type": "TemplateProcessing", "special_tokens": {}, "pair": [],
            "single": [{"SpecialToken": {"id": "<x>"}}, {"Sequence": {"id": "A"}}]})"),
       kInvalid, "\"<x>\": not among special_tokens"},
      {"TemplateIdTooLarge", set("post_processor", R"({"type": "TemplateProcessing", "pair": [],
            "special_tokens": {"<x>": {"id": "<x>", "ids": [261], "tokens": ["<x>"]}},
            "single": [{"SpecialToken": {"id": "<x>"}}, {"Sequence": {"id": "A"}}]})"),
       kInvalid, "id 261 is outside the vocabulary of 261"},
      {"TemplateWithoutText",
       set("post_processor",
           R"({"type": "TemplateProcessing", "special_tokens": {}, "pair": [], "single": []})"),
       kInvalid, "sequence A exactly once"},
  };
}

std::vector<Malformed> AllMalformed() {
  std::vector<Malformed> all = VocabularyCases();
  for (Malformed& m : ModelCases()) all.push_back(std::move(m));
  for (Malformed& m : StageCases()) all.push_back(std::move(m));
  return all;
}

class TokenizerMalformedTest : public testing::TestWithParam<Malformed> {};

TEST_P(TokenizerMalformedTest, IsRefusedByName) {
  json document = ByteLevelDocument();
  ASSERT_OK(Make(document));
  GetParam().change(document);
  const absl::Status status = Make(document).status();
  EXPECT_THAT(status, StatusIs(GetParam().code, GetParam().error));
  EXPECT_THAT(status, StatusIs(GetParam().code, "test/tokenizer.json"));
  const std::string message(status.message());
  EXPECT_EQ(FirstInvalidUtf8(message), message.size());
  EXPECT_LT(message.size(), 500u);
}

INSTANTIATE_TEST_SUITE_P(Files, TokenizerMalformedTest, testing::ValuesIn(AllMalformed()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(TokenizerByteTokensTest, MissingOrMisspelledByteTokensAreRefused) {
  for (const char* wrong : {"<0xZZ>", "<0x-1>", "<0x7f>", "<0x007F>"}) {
    json document = ByteFallbackDocument();
    ASSERT_OK(Make(document));
    json& vocab = document["model"]["vocab"];
    vocab[wrong] = vocab["<0x7F>"];
    vocab.erase("<0x7F>");
    EXPECT_THAT(Make(document), StatusIs(kInvalid, "needs the token \"<0x7F>\"")) << wrong;
  }
}

TEST(TokenizerFileTest, SaysWhichFileIsMissingOrBroken) {
  const TempDir dir;
  EXPECT_THAT(Tokenizer::Load(dir.path()),
              StatusIs(StatusCode::kNotFound, dir.File("tokenizer.json")));
  dir.Write("tokenizer.json", "{\"model\": \n{]");
  EXPECT_THAT(Tokenizer::Load(dir.path()), StatusIs(kInvalid, "at line 2, column 2"));
  dir.Write("tokenizer.json", ByteLevelDocument().dump());
  EXPECT_OK(Tokenizer::Load(dir.path()));
  dir.Write("tokenizer_config.json", "[]");
  EXPECT_THAT(Tokenizer::Load(dir.path()), StatusIs(kInvalid, dir.File("tokenizer_config.json")));
}

TEST(TokenizerFileTest, RepeatedTokensAreRefused) {
  std::string text = ByteLevelDocument().dump();
  const size_t at = text.find("\"abc\":257");
  ASSERT_NE(at, std::string::npos);
  text.insert(at, "\"abc\":256,");
  EXPECT_THAT(Tokenizer::FromJson(text, "", "test"), StatusIs(kInvalid, "\"abc\" is given twice"));
}

// A million merges of the same pair: read in bounded time, the last rank counts.
TEST(TokenizerFileTest, ManyMergesAreReadInBoundedTime) {
  json document = ByteLevelDocument();
  json& merges = document["model"]["merges"];
  for (int i = 0; i < 1'000'000; ++i) merges.push_back({"a", "b"});
  const auto start = std::chrono::steady_clock::now();
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Make(document));
  ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->Encode("abc"));
  EXPECT_EQ(ids, (std::vector<int32_t>{257}));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

}  // namespace
}  // namespace lorad
