#include "engine/io/tokenizer.h"

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "engine/io/file.h"
#include "engine/io/tokenizer/pattern.h"
#include "engine/io/tokenizer/unicode.h"
#include "engine/io/utf8.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/engine/io/tokenizer_fixture.h"

namespace lorad {
namespace {

using absl::StatusCode;
using Ids = std::vector<int32_t>;

std::unique_ptr<const Tokenizer> MakeOrDie(const nlohmann::json& document,
                                           const std::string& config = "") {
  auto tokenizer = Make(document, config);
  EXPECT_OK(tokenizer);
  return *std::move(tokenizer);
}

Ids EncodeOrDie(const Tokenizer& tokenizer, std::string_view text,
                const EncodeOptions& options = {}) {
  auto ids = tokenizer.Encode(text, options);
  EXPECT_OK(ids);
  return ids.ok() ? *ids : Ids{};
}

std::unique_ptr<const Tokenizer> GoldenTokenizer(const std::string& name) {
  auto tokenizer = Tokenizer::Load(std::string(LORAD_SOURCE_DIR) + "/tests/golden/" + name);
  EXPECT_OK(tokenizer);
  return *std::move(tokenizer);
}

// ThreadSanitizer slows merging some twenty times; a tenth of the text still shows a square.
#ifdef __SANITIZE_THREAD__
constexpr size_t kMillion = 100'000;
#else
constexpr size_t kMillion = 1'000'000;
#endif

TEST(TokenizerTest, LooksUpTokensAndIds) {
  const auto tokenizer = MakeOrDie(ByteLevelDocument());
  EXPECT_EQ(tokenizer->vocab_size(), 261);
  EXPECT_EQ(tokenizer->TokenToId("abc"), 257);
  EXPECT_EQ(tokenizer->TokenToId("abcd"), std::nullopt);
  EXPECT_EQ(tokenizer->IdToToken(258), "Ġab");
  EXPECT_TRUE(tokenizer->HasToken(260));
  EXPECT_FALSE(tokenizer->HasToken(261));
  EXPECT_FALSE(tokenizer->HasToken(-1));
  EXPECT_TRUE(tokenizer->IsSpecial(259));
  EXPECT_FALSE(tokenizer->IsSpecial(258));
  EXPECT_FALSE(tokenizer->IsSpecial(9999));
}

TEST(TokenizerTest, MergesByRankThenFromTheLeft) {
  const auto tokenizer = MakeOrDie(ByteLevelDocument());
  EXPECT_EQ(EncodeOrDie(*tokenizer, "abcab ab"), (Ids{257, 256, 258}));
  EXPECT_EQ(EncodeOrDie(*tokenizer, "aab"), (Ids{'a', 256}));
  EXPECT_EQ(EncodeOrDie(*tokenizer, ""), Ids{});
  EXPECT_EQ(EncodeOrDie(*tokenizer, std::string("\0\n", 2)), (Ids{0, 10}));
}

// The two ways to merge, below and above the length where the heap takes over, agree.
TEST(TokenizerTest, LongWordsMergeLikeShortOnes) {
  const auto tokenizer = GoldenTokenizer("tok-llama3");
  const EncodeOptions plain = {.add_special_tokens = false};
  const Ids unit = EncodeOrDie(*tokenizer, "internationalization", plain);
  ASSERT_GT(unit.size(), 1u);
  std::string text;
  Ids expected;
  for (int i = 0; i < 50; ++i) {
    text += "internationalization\n";  // the newline never merges with letters
    const Ids line = EncodeOrDie(*tokenizer, "internationalization\n", plain);
    expected.insert(expected.end(), line.begin(), line.end());
  }
  // One piece for a tokenizer without a split.
  nlohmann::json document = nlohmann::json::parse(
      *ReadFile(std::string(LORAD_SOURCE_DIR) + "/tests/golden/tok-llama3/tokenizer.json"));
  document["pre_tokenizer"]["pretokenizers"].erase(0);
  document["model"]["ignore_merges"] = false;
  const auto unsplit = MakeOrDie(document);
  EXPECT_EQ(EncodeOrDie(*unsplit, text, plain), expected);
}

TEST(TokenizerTest, SpecialTextOfAUserStaysText) {
  const auto tokenizer = MakeOrDie(ByteLevelDocument());
  EXPECT_EQ(EncodeOrDie(*tokenizer, "a</s>b"), (Ids{'a', 260, 'b'}));
  const Ids plain = EncodeOrDie(*tokenizer, "a</s>b", {.allow_special = false});
  EXPECT_EQ(plain, (Ids{'a', '<', '/', 's', '>', 'b'}));
  EXPECT_EQ(tokenizer->Decode(plain), "a</s>b");
}

// ignore_merges looks whole pieces up in the vocabulary, where special tokens are too.
TEST(TokenizerTest, SpecialTextStaysTextWithIgnoreMerges) {
  nlohmann::json document = ByteLevelDocument();
  document["model"]["ignore_merges"] = true;
  document["added_tokens"][0]["content"] = "END";
  const auto tokenizer = MakeOrDie(document);
  EXPECT_EQ(EncodeOrDie(*tokenizer, "END"), Ids{259});
  EXPECT_EQ(EncodeOrDie(*tokenizer, "END", {.allow_special = false}), (Ids{'E', 'N', 'D'}));
  EXPECT_EQ(EncodeOrDie(*tokenizer, "abc"), Ids{257});
}

TEST(TokenizerTest, TemplateSurroundsTheText) {
  nlohmann::json document = ByteLevelDocument();
  document["post_processor"] = nlohmann::json::parse(R"({"type": "Sequence", "processors": [
      {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
      {"type": "TemplateProcessing", "pair": [],
       "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                  {"Sequence": {"id": "A", "type_id": 0}},
                  {"SpecialToken": {"id": "</s>", "type_id": 0}}],
       "special_tokens": {"<s>": {"id": "<s>", "ids": [259], "tokens": ["<s>"]},
                          "</s>": {"id": "</s>", "ids": [260], "tokens": ["</s>"]}}}]})");
  const auto tokenizer = MakeOrDie(document);
  EXPECT_EQ(EncodeOrDie(*tokenizer, "ab"), (Ids{259, 256, 260}));
  EXPECT_EQ(EncodeOrDie(*tokenizer, "ab", {.add_special_tokens = false}), Ids{256});
  EXPECT_EQ(tokenizer->bos_id(), 259);
  EXPECT_EQ(tokenizer->eos_id(), std::nullopt);
  EXPECT_EQ(tokenizer->Decode({259, 256, 260}), "ab");
  EXPECT_EQ(tokenizer->Decode({259, 256, 260}, {.skip_special_tokens = false}), "<s>ab</s>");
}

TEST(TokenizerTest, ConfigNamesTheTokensThatBeginAndEnd) {
  const auto tokenizer =
      MakeOrDie(ByteLevelDocument(),
                R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false},
                    "pad_token": null, "model_max_length": 1000000000000000019884624838656})");
  EXPECT_EQ(tokenizer->bos_id(), 259);
  EXPECT_EQ(tokenizer->eos_id(), 260);
  EXPECT_THAT(Make(ByteLevelDocument(), R"({"eos_token": "<|eot|>"})"),
              StatusIs(StatusCode::kInvalidArgument, "eos_token \"<|eot|>\" is not in"));
  EXPECT_THAT(Make(ByteLevelDocument(), R"({"eos_token": 7})"),
              StatusIs(StatusCode::kInvalidArgument, "eos_token"));
}

TEST(TokenizerTest, RefusesInvalidUtf8) {
  const auto tokenizer = MakeOrDie(ByteLevelDocument());
  EXPECT_THAT(tokenizer->Encode("ab\xFF"),
              StatusIs(StatusCode::kInvalidArgument, "not valid UTF-8 at byte 2 of 3"));
  EXPECT_THAT(tokenizer->Encode("\xED\xA0\x80"), StatusIs(StatusCode::kInvalidArgument, "byte 0"));
  EXPECT_THAT(tokenizer->Encode("\xC0\x80"), StatusIs(StatusCode::kInvalidArgument, "byte 0"));
}

TEST(TokenizerTest, ACharacterThatCannotBeExpressedIsAnError) {
  nlohmann::json document = ByteFallbackDocument();
  document["model"]["byte_fallback"] = false;
  EXPECT_EQ(EncodeOrDie(*MakeOrDie(document), "a日本b"), (Ids{258, 259, 0, 260}));  // fused
  document["model"]["fuse_unk"] = false;
  EXPECT_EQ(EncodeOrDie(*MakeOrDie(document), "a日本b"), (Ids{258, 259, 0, 0, 260}));
  document["model"]["unk_token"] = nullptr;
  EXPECT_THAT(MakeOrDie(document)->Encode("a日"),
              StatusIs(StatusCode::kInvalidArgument, "character \"日\""));
}

TEST(TokenizerTest, FallsBackToBytes) {
  const auto tokenizer = MakeOrDie(ByteFallbackDocument());
  const Ids ids = EncodeOrDie(*tokenizer, "ab é");
  EXPECT_EQ(ids, (Ids{262, 258, 2 + 0xC3, 2 + 0xA9}));
  EXPECT_EQ(tokenizer->Decode(ids), "ab é");
}

TEST(TokenizerTest, IdsWithoutATokenAddNothing) {
  const auto tokenizer = MakeOrDie(ByteLevelDocument());
  EXPECT_EQ(tokenizer->Decode({-1, 256, 5000, 'c'}), "abc");
}

// A decoder is never given half a character: the pieces are valid UTF-8 and together the whole.
TEST(IncrementalDecoderTest, PiecesAreValidAndAddUp) {
  for (const char* name :
       {"tok-llama3", "tok-llama2", "tok-gpt2", "tok-qwen2", "tok-metaspace", "tok-mixed"}) {
    const auto tokenizer = GoldenTokenizer(name);
    uint64_t random = 1;
    for (int round = 0; round < 300; ++round) {
      Ids ids;
      for (int i = 0; i < 40; ++i) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        // Half of them small ids, where the bytes are: most sequences are broken characters.
        const int32_t bound = random >> 63 ? 300 : tokenizer->vocab_size();
        ids.push_back(static_cast<int32_t>((random >> 33) % static_cast<uint64_t>(bound)));
      }
      for (const bool skip : {true, false}) {
        IncrementalDecoder decoder(tokenizer.get(), {.skip_special_tokens = skip});
        std::string whole;
        for (const int32_t id : ids) {
          const std::string piece = decoder.Push(id);
          ASSERT_EQ(FirstInvalidUtf8(piece), piece.size());
          whole += piece;
        }
        whole += decoder.Finish();
        ASSERT_EQ(FirstInvalidUtf8(whole), whole.size());
        ASSERT_EQ(whole, tokenizer->Decode(ids, {.skip_special_tokens = skip}));
      }
    }
  }
}

TEST(IncrementalDecoderTest, GivesTextAsSoonAsItIsSettled) {
  const auto tokenizer = MakeOrDie(ByteLevelDocument());
  IncrementalDecoder decoder(tokenizer.get());
  EXPECT_EQ(decoder.Push('a'), "a");
  EXPECT_EQ(decoder.Push(0xF0), "");
  EXPECT_EQ(decoder.Push(0x9F), "");
  EXPECT_EQ(decoder.Push(0x98), "");
  EXPECT_EQ(decoder.Push(0x80), "😀");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Push('b'), "\uFFFDb");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Finish(), "\uFFFD");
  EXPECT_EQ(decoder.Push('c'), "c");  // as new
}

TEST(IncrementalDecoderTest, StripsTheStartOfTheTextAlone) {
  const auto tokenizer = MakeOrDie(ByteFallbackDocument());
  IncrementalDecoder decoder(tokenizer.get());
  EXPECT_EQ(decoder.Push(258), "");
  EXPECT_EQ(decoder.Push(258), " ");
  EXPECT_EQ(decoder.Push(262), " ab");
  EXPECT_EQ(decoder.Push(2 + 0xC3), "");  // a run of bytes is text only as a whole
  EXPECT_EQ(decoder.Push(2 + 0xA9), "");
  EXPECT_EQ(decoder.Push(259), "éa");
  EXPECT_EQ(decoder.Push(2 + 0xC3), "");
  EXPECT_EQ(decoder.Finish(), "\uFFFD");
  EXPECT_EQ(decoder.Push(262), "ab");
}

TEST(DecoderTest, StripHoldsBackWhatMayBeTheEnd) {
  nlohmann::json document = ByteFallbackDocument();
  document["decoder"]["decoders"][3]["stop"] = 2;
  const auto tokenizer = MakeOrDie(document);
  EXPECT_EQ(tokenizer->Decode({262, 258, 258, 258}), "ab ");
  EXPECT_EQ(tokenizer->Decode({262, 258, 258, 259}), "ab  a");
  EXPECT_EQ(tokenizer->Decode({258, 258}), "");
}

TEST(DecoderTest, WithoutADecoderTokensAreJoinedBySpaces) {
  nlohmann::json document = ByteFallbackDocument();
  document["decoder"] = nullptr;
  EXPECT_EQ(MakeOrDie(document)->Decode({259, 260, 262}), "a b ▁ab");
}

// One word of 4 MB, white space, combining marks, the start of a special token again and again:
// what a quadratic step would need hours for.
TEST(TokenizerBoundTest, HostileTextsTakeBoundedTime) {
  std::string marks, brackets;
  for (size_t i = 0; i < kMillion * 3 / 10; ++i) marks += i % 2 ? "\u0323" : "\u0301";
  for (size_t i = 0; i < kMillion / 2; ++i) brackets += "<|";
  const std::string texts[] = {
      std::string(4 * kMillion, 'a'),
      std::string(kMillion, ' '),
      std::string(kMillion / 2, '\n') + std::string(kMillion / 2, ' ') + "x",
      std::string(kMillion, '\0'),
      marks,
      brackets,
  };
  const auto start = std::chrono::steady_clock::now();
  for (const char* name : {"tok-llama3", "tok-llama2", "tok-qwen2"}) {
    const auto tokenizer = GoldenTokenizer(name);
    for (const std::string& text : texts) {
      const Ids ids = EncodeOrDie(*tokenizer, text, {.add_special_tokens = false});
      EXPECT_FALSE(ids.empty());
      if (&text != &texts[4]) {  // NFC changes the marks
        // In one of the files the byte tokens are special.
        EXPECT_TRUE(tokenizer->Decode(ids, {.skip_special_tokens = false}) == text) << name;
      }
    }
  }
  // About 3 s in all on one core; what is quadratic in 4 MB takes hours.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(100));
}

TEST(TokenizerThreadTest, ManyThreadsShareOneTokenizer) {
  const auto tokenizer = GoldenTokenizer("tok-qwen2");
  const std::string text = "Ça va? 你好 the model reads 1234 words, don't you'd say\n";
  const Ids expected = EncodeOrDie(*tokenizer, text);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        EXPECT_EQ(EncodeOrDie(*tokenizer, text), expected);
        EXPECT_EQ(tokenizer->Decode(expected), text);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(PatternTest, CatastrophicBacktrackingIsAnErrorNotAHang) {
  ASSERT_OK_AND_ASSIGN(const Pattern pattern, Pattern::Regex("(a+)+b|(a|aa)+c", "test"));
  std::vector<TextRange> matches;
  EXPECT_THAT(pattern.FindAll(std::string(1'000'000, 'a'), &matches),
              StatusIs(StatusCode::kResourceExhausted, "gave up at byte"));
}

TEST(PatternTest, RewritesWhatPcre2ReadsOtherwise) {
  const struct {
    const char* expression;
    const char* text;
    std::vector<std::string> matches;
  } cases[] = {
      {R"(\s+)", "a \u180e\u0085\u3000b", {" ", "\u0085\u3000"}},  // U+180E is no white space
      {R"([^\s\p{L}])", "a \u180eb", {"\u180e"}},
      {R"([\S])", "a b", {"a", "b"}},
      {R"(\w+)", "e\u0301 x_1 ½", {"e\u0301", "x_1"}},
      {R"(\W)", "a-b", {"-"}},
      {R"(\h+)", "xyz09afAF", {"09afAF"}},
      {R"(\v)", "\x0b\n", {"\x0b"}},
      {R"(^b$)", "a\nb\nc", {"b"}},
      {R"(.+)", "a\rb\nc", {"a\rb", "c"}},
      {R"((?i:'s|'LL))", "'S 'ſ 'll", {"'S", "'ſ", "'ll"}},
      {R"(\p{N}{1,3})", "12345", {"123", "45"}},
      {R"(\u3042)", "あい", {"あ"}},
      {R"(\d)", "a٣", {"٣"}},
      {R"([]a])", "]a", {"]", "a"}},
      {R"(a{)", "a{", {"a{"}},
      {R"(a*)", "baac", {"", "aa", ""}},
  };
  for (const auto& c : cases) {
    ASSERT_OK_AND_ASSIGN(const Pattern pattern, Pattern::Regex(c.expression, "test"));
    std::vector<TextRange> ranges;
    ASSERT_OK(pattern.FindAll(c.text, &ranges));
    std::vector<std::string> found;
    for (const TextRange& range : ranges)
      found.push_back(std::string(c.text).substr(range.begin, range.end - range.begin));
    EXPECT_EQ(found, c.matches) << c.expression;
  }
}

TEST(PatternTest, RefusesWhatCannotBeRewritten) {
  for (const char* expression :
       {R"([a&&b])", R"([a[bc]])", R"([\W])", R"(\p{N}{1,3}+)", R"(a(?i)b)", R"((?m:.))", R"(\K)",
        R"(\X)", R"(\k<n>)", R"(a{,3})", R"((?<n>a))"})
    EXPECT_THAT(Pattern::Regex(expression, "here"),
                StatusIs(StatusCode::kUnimplemented, "here: expression"))
        << expression;
  for (const char* expression : {"(", "[a", "a\\", R"(\p{NoSuchProperty})"})
    EXPECT_THAT(Pattern::Regex(expression, "here"),
                StatusIs(StatusCode::kInvalidArgument, "here: expression"))
        << expression;
}

TEST(UnicodeTest, NormalFormsOfTheStandardsExamples) {
  // UAX #15, figures 3 to 6.
  EXPECT_EQ(Normalize("\u212b", NormalForm::kNfc), "\u00c5");
  EXPECT_EQ(Normalize("\u00c5", NormalForm::kNfd), "A\u030a");
  EXPECT_EQ(Normalize("\u1e9b\u0323", NormalForm::kNfc), "\u1e9b\u0323");
  EXPECT_EQ(Normalize("\u1e9b\u0323", NormalForm::kNfd), "\u017f\u0323\u0307");
  EXPECT_EQ(Normalize("\u1e9b\u0323", NormalForm::kNfkc), "\u1e69");
  EXPECT_EQ(Normalize("\u1e9b\u0323", NormalForm::kNfkd), "s\u0323\u0307");
  EXPECT_EQ(Normalize("\ufb01", NormalForm::kNfkc), "fi");
  EXPECT_EQ(Normalize("\u1100\u1161\u11a8", NormalForm::kNfc), "각");
  EXPECT_EQ(Normalize("\u0958", NormalForm::kNfc), "\u0915\u093c");  // excluded from composition
  EXPECT_EQ(Normalize(std::string_view("a\0b", 3), NormalForm::kNfc), std::string("a\0b", 3));
}

}  // namespace
}  // namespace lorad
