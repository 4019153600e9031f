#include "engine/infer/generation.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/io/utf8.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/io/tokenizer_fixture.h"

namespace lorad {
namespace {

using absl::StatusCode;

// The byte-level tokenizer of the fixture: ids 0..255 are bytes, 256 "ab", 257 "abc", 260 "</s>".
constexpr int32_t kEos = 260;

class GenerationTest : public testing::Test {
 protected:
  GenerationTest() {
    absl::StatusOr<std::unique_ptr<const Tokenizer>> tokenizer = Make(ByteLevelDocument());
    EXPECT_OK(tokenizer);
    tokenizer_ = *std::move(tokenizer);
    limits_ = {
        .vocab = 261, .context_tokens = 64, .eos_ids = {kEos}, .tokenizer = tokenizer_.get()};
    request_.prompt = {'x'};
    request_.sampling.temperature = 0;
  }

  // Logits that make `id` the next token.
  std::vector<float> Logits(int32_t id) const {
    std::vector<float> logits(limits_.vocab, 0.0f);
    logits[id] = 10;
    return logits;
  }

  // Feeds ids until they end or the answer does; returns all text.
  std::string Feed(Generation& generation, const std::vector<int32_t>& ids) {
    std::string text;
    for (const int32_t id : ids) {
      if (generation.finish_reason().has_value()) break;
      absl::StatusOr<GenerateDelta> delta = generation.Advance(Logits(id));
      EXPECT_OK(delta);
      EXPECT_EQ(delta->ids, std::vector<int32_t>{id});
      EXPECT_EQ(FirstInvalidUtf8(delta->text), delta->text.size());
      text += delta->text;
    }
    return text;
  }

  static std::vector<int32_t> Bytes(const std::string& text) {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }

  std::unique_ptr<const Tokenizer> tokenizer_;
  GenerationLimits limits_;
  GenerateRequest request_;
};

TEST_F(GenerationTest, EndsAtMaxTokens) {
  request_.max_tokens = 3;
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, {'a', 'b', 'c', 'd'}), "abc");
  EXPECT_EQ(generation.finish_reason(), FinishReason::kLength);
  EXPECT_EQ(generation.tokens(), (std::vector<int32_t>{'x', 'a', 'b', 'c'}));
  EXPECT_EQ(generation.prompt_tokens(), 1);
  EXPECT_EQ(generation.generated_tokens(), 3);
}

TEST_F(GenerationTest, EndsWithTheContext) {
  limits_.context_tokens = 4;
  for (const int32_t max_tokens : {0, 100}) {
    request_.max_tokens = max_tokens;
    Generation generation(request_, limits_);
    EXPECT_EQ(Feed(generation, {'a', 'b', 'c', 'd'}), "abc");
    EXPECT_EQ(generation.finish_reason(), FinishReason::kLength);
  }
}

TEST_F(GenerationTest, EndOfSequenceEndsTheAnswerAndIsNotText) {
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, {'a', kEos, 'b'}), "a");
  EXPECT_EQ(generation.finish_reason(), FinishReason::kStop);
  EXPECT_EQ(generation.generated_tokens(), 2);
}

TEST_F(GenerationTest, IgnoreEosGoesOn) {
  request_.ignore_eos = true;
  request_.max_tokens = 3;
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, {'a', kEos, 'b'}), "ab");
  EXPECT_EQ(generation.finish_reason(), FinishReason::kLength);
}

TEST_F(GenerationTest, StopIdsEndTheAnswerAndAreNotText) {
  request_.stop_ids = {'q', 257};
  request_.ignore_eos = true;  // does not touch stop ids
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, {'a', 257, 'b'}), "a");
  EXPECT_EQ(generation.finish_reason(), FinishReason::kStop);
}

TEST_F(GenerationTest, StopStringAcrossTokenBorders) {
  request_.stop_strings = {"bab"};
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, {256, 256, 'c'}), "a");  // "ab" "ab": the first "a" is before it
  EXPECT_EQ(generation.finish_reason(), FinishReason::kStop);
  EXPECT_EQ(generation.generated_tokens(), 2);
}

TEST_F(GenerationTest, HeldTextComesOutAtTheEnd) {
  request_.stop_strings = {"abcdef"};
  request_.max_tokens = 2;
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, {257, 'd'}), "abcd");
  EXPECT_EQ(generation.finish_reason(), FinishReason::kLength);
}

TEST_F(GenerationTest, ThePromptDoesNotCountForStopStrings) {
  request_.prompt = Bytes("xst");
  request_.stop_strings = {"stop"};
  request_.max_tokens = 2;
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, Bytes("op")), "op");
}

TEST_F(GenerationTest, CharactersAreNeverBroken) {
  const std::string text = "a\xC3\xA9\xF0\x9F\x99\x82z";  // é and an emoji, byte by byte
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, Bytes(text)), text);
}

TEST_F(GenerationTest, BytesOfNoCharacterBecomeTheReplacementCharacter) {
  request_.max_tokens = 2;
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, {'a', 0xF0}), "a\xEF\xBF\xBD");
}

TEST_F(GenerationTest, WordsKeepTheirSpaceAfterThePrompt) {
  absl::StatusOr<std::unique_ptr<const Tokenizer>> sentencepiece = Make(ByteFallbackDocument());
  ASSERT_OK(sentencepiece);
  limits_ = {.vocab = 263, .context_tokens = 64, .eos_ids = {}, .tokenizer = sentencepiece->get()};
  request_.prompt = {262};  // "▁ab"
  request_.max_tokens = 2;
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, {262, 261}), " abab");
}

TEST_F(GenerationTest, WithoutATokenizerThereIsNoText) {
  limits_.tokenizer = nullptr;
  request_.max_tokens = 2;
  Generation generation(request_, limits_);
  EXPECT_EQ(Feed(generation, {'a', 'b'}), "");
  EXPECT_EQ(generation.tokens(), (std::vector<int32_t>{'x', 'a', 'b'}));
}

TEST_F(GenerationTest, LogprobsAreOfTheModelNotOfTheSampler) {
  request_.sampling.temperature = 0.1;
  request_.sampling.repetition_penalty = 5;
  request_.logprobs = 2;
  Generation generation(request_, limits_);
  const absl::StatusOr<GenerateDelta> delta = generation.Advance(Logits('a'));
  ASSERT_OK(delta);
  ASSERT_EQ(delta->logprobs.size(), 1);
  const double log_sum = std::log(std::exp(10.0) + 260);
  EXPECT_EQ(delta->logprobs[0].id, 'a');
  EXPECT_NEAR(delta->logprobs[0].logprob, 10 - log_sum, 1e-6);
  ASSERT_EQ(delta->logprobs[0].top.size(), 2);
  EXPECT_EQ(delta->logprobs[0].top[1].first, 0);
  EXPECT_NEAR(delta->logprobs[0].top[1].second, -log_sum, 1e-6);
}

TEST_F(GenerationTest, PenaltiesSeeWhatWasGenerated) {
  request_.sampling.presence_penalty = 2;
  Generation generation(request_, limits_);
  std::vector<float> logits = Logits('a');
  logits['b'] = 9;
  EXPECT_EQ(generation.Advance(logits)->ids[0], 'a');
  EXPECT_EQ(generation.Advance(logits)->ids[0], 'b');
}

TEST_F(GenerationTest, ADrawnTokenAdvancesAsItsLogitsDo) {
  request_.logprobs = 2;
  request_.stop_strings = {"b"};
  Generation from_logits(request_, limits_), from_token(request_, limits_);
  Sampler sampler({}, {}, limits_.vocab);
  for (const int32_t id : {'a', 'b'}) {
    ASSERT_OK_AND_ASSIGN(const GenerateDelta expected, from_logits.Advance(Logits(id)));
    ASSERT_OK_AND_ASSIGN(const GenerateDelta delta,
                         from_token.Advance(sampler.LogprobOf(Logits(id), id, 2)));
    EXPECT_EQ(delta.ids, expected.ids);
    EXPECT_EQ(delta.text, expected.text);
    ASSERT_EQ(delta.logprobs.size(), 1);
    EXPECT_EQ(delta.logprobs[0].id, id);
    EXPECT_EQ(delta.logprobs[0].logprob, expected.logprobs[0].logprob);
    EXPECT_EQ(delta.logprobs[0].top, expected.logprobs[0].top);
  }
  EXPECT_EQ(from_token.tokens(), from_logits.tokens());
  EXPECT_EQ(from_token.finish_reason(), FinishReason::kStop);
}

TEST_F(GenerationTest, LogprobsThatWereNotAskedForAreNotPassedOn) {
  Generation generation(request_, limits_);
  ASSERT_OK_AND_ASSIGN(const GenerateDelta delta,
                       generation.Advance(TokenLogprob{.id = 'a', .logprob = 0, .top = {}}));
  EXPECT_TRUE(delta.logprobs.empty());
}

TEST_F(GenerationTest, ATokenFromLogitsThatAreNoNumbersIsAnError) {
  Generation generation(request_, limits_);
  EXPECT_THAT(generation.Advance(TokenLogprob{.id = -1, .logprob = 0, .top = {}}),
              StatusIs(StatusCode::kInternal, "no finite largest logit at output token 0"));
}

TEST_F(GenerationTest, SaysHowTheNextTokenIsDrawn) {
  request_.logprobs = 5;
  request_.sampling = {.temperature = 0.5, .top_k = 7, .top_p = 0.5, .min_p = 0.25, .seed = 3};
  Generation generation(request_, limits_);
  ASSERT_OK(generation.Advance(TokenLogprob{.id = 'a', .logprob = 0, .top = {}}));
  const DrawRequest next = generation.NextDraw();
  EXPECT_FALSE(next.logits);
  EXPECT_EQ(next.params.step, 1);
  EXPECT_EQ(next.params.seed, 3);
  EXPECT_EQ(next.params.top, 5);
  EXPECT_EQ(next.params.top_k, 7);
  EXPECT_EQ(next.params.top_p, uint64_t{1} << 63);
  EXPECT_EQ(next.params.min_weight, uint64_t{1} << 38);
  EXPECT_NEAR(next.params.octaves_per_unit, 2.885390, 1e-6);  // 2 log2(e)
}

TEST_F(GenerationTest, PenaltiesNeedLogits) {
  const auto needs_logits = [this](const SamplingParams& sampling) {
    request_.sampling = sampling;
    return Generation(request_, limits_).NextDraw().logits;
  };
  EXPECT_FALSE(needs_logits({}));
  EXPECT_TRUE(needs_logits({.repetition_penalty = 1.1}));
  EXPECT_TRUE(needs_logits({.presence_penalty = 0.1}));
  EXPECT_TRUE(needs_logits({.frequency_penalty = -0.1}));
}

// ---- Constraints ------------------------------------------------------------------------------

class ConstrainedTest : public GenerationTest {
 protected:
  ConstrainedTest() : compiler_(tokenizer_.get(), limits_.vocab) {
    limits_.constraints = &compiler_;
  }

  Generation Make(const std::string& regex) {
    request_.constraint = {ConstraintSpec::Kind::kRegex, regex};
    auto constraint = CompileConstraint(request_.constraint, limits_);
    EXPECT_OK(constraint);
    return Generation(request_, limits_, *std::move(constraint));
  }
  // The text when `favourites` have the largest logits, the first the largest of all.
  std::string Favour(Generation& generation, const std::vector<int32_t>& favourites) {
    std::vector<float> logits(limits_.vocab, 0.0f);
    for (size_t i = 0; i < favourites.size(); ++i)
      logits[favourites[i]] = 10 + static_cast<float>(favourites.size() - i);
    std::string text;
    while (!generation.finish_reason().has_value()) {
      absl::StatusOr<GenerateDelta> delta = generation.Advance(logits);
      if (!delta.ok()) {
        ADD_FAILURE() << delta.status();
        break;
      }
      text += delta->text;
    }
    return text;
  }

  ConstraintCompiler compiler_;
};

TEST_F(ConstrainedTest, TheLikeliestAllowedTokenIsTaken) {
  Generation generation = Make("(abc|b)x{2}");
  EXPECT_TRUE(generation.constrained());
  EXPECT_EQ(Favour(generation, {'q', kEos, 257, 'b'}), "abcxx");
  EXPECT_EQ(generation.finish_reason(), FinishReason::kStop);
  EXPECT_EQ(generation.generated_tokens(), 3) << "it ends without an end-of-sequence id";
}

TEST_F(ConstrainedTest, EndOfSequenceIsDrawnOnlyWhereTheAnswerMayEnd) {
  Generation generation = Make("ab+");
  EXPECT_EQ(Favour(generation, {kEos, 'a', 'b'}), "ab");
  EXPECT_EQ(generation.finish_reason(), FinishReason::kStop);
  EXPECT_EQ(generation.tokens().back(), kEos);
}

TEST_F(ConstrainedTest, StopIdsAreDrawnOnlyWhereTheAnswerMayEnd) {
  request_.stop_ids = {'b'};  // which the pattern could use, but then it would end unfinished
  Generation generation = Make("a(b|c)d?");
  EXPECT_EQ(Favour(generation, {'b', 'a', 'c', 'd'}), "ac");
  EXPECT_EQ(generation.tokens().back(), 'b');
}

TEST_F(ConstrainedTest, IgnoreEosGoesOnWhileSomethingCanFollow) {
  request_.ignore_eos = true;
  request_.max_tokens = 5;
  Generation endless = Make("ab*");
  EXPECT_EQ(Favour(endless, {kEos, 'b'}), "abbbb");
  EXPECT_EQ(endless.finish_reason(), FinishReason::kLength);
  Generation finite = Make("ab{0,2}");
  EXPECT_EQ(Favour(finite, {kEos, 'b'}), "abb");
  EXPECT_EQ(finite.finish_reason(), FinishReason::kStop);
}

TEST_F(ConstrainedTest, MaxTokensCutsTheAnswer) {
  request_.max_tokens = 2;
  Generation cut = Make("abcd");
  EXPECT_EQ(Favour(cut, {'a', 'b'}), "ab");
  EXPECT_EQ(cut.finish_reason(), FinishReason::kLength);
  Generation whole = Make("ab");
  EXPECT_EQ(Favour(whole, {'a'}), "ab");
  EXPECT_EQ(whole.finish_reason(), FinishReason::kStop) << "complete with the last token";
}

TEST_F(ConstrainedTest, SamplingStaysInside) {
  request_.sampling = {.temperature = 5, .top_k = 3, .top_p = 0.9, .repetition_penalty = 1.5};
  for (uint64_t seed = 0; seed < 50; ++seed) {
    request_.sampling.seed = seed;
    Generation generation = Make("(yes|no)( and (yes|no)){2}");
    const std::string text = Favour(generation, {kEos, 'z', 'q', 256});
    EXPECT_TRUE(text.starts_with("yes and ") || text.starts_with("no and ")) << text;
    EXPECT_EQ(generation.finish_reason(), FinishReason::kStop);
  }
}

TEST_F(ConstrainedTest, EveryRowOfLogitsComesToTheHost) {
  Generation generation = Make("ab");
  EXPECT_TRUE(generation.NextDraw().logits);
  ASSERT_OK(generation.Advance(Logits('a')));
  EXPECT_TRUE(generation.NextDraw().logits);
}

TEST_F(ConstrainedTest, WhatIsNotANumberSpoilsTheRowAlsoWhereItIsNotAllowed) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Generation generation = Make("ab");
    std::vector<float> logits = Logits('a');
    logits['q'] = bad;
    EXPECT_THAT(generation.Advance(logits),
                StatusIs(StatusCode::kInternal, "no finite largest logit at output token 0"));
  }
}

TEST_F(ConstrainedTest, LogprobsAreOfTheWholeDistribution) {
  request_.logprobs = 1;
  Generation generation = Make("b");
  const absl::StatusOr<GenerateDelta> delta = generation.Advance(Logits('a'));
  ASSERT_OK(delta);
  const double log_sum = std::log(std::exp(10.0) + 260);
  EXPECT_EQ(delta->ids, std::vector<int32_t>{'b'});
  EXPECT_NEAR(delta->logprobs[0].logprob, -log_sum, 1e-6);
  EXPECT_EQ(delta->logprobs[0].top[0].first, 'a');
}

TEST_F(ConstrainedTest, EveryByteOfTheAnswerCounts) {
  absl::StatusOr<std::unique_ptr<const Tokenizer>> sentencepiece =
      lorad::Make(ByteFallbackDocument());
  ASSERT_OK(sentencepiece);
  limits_ = {.vocab = 263, .context_tokens = 64, .eos_ids = {}, .tokenizer = sentencepiece->get()};
  ConstraintCompiler compiler(sentencepiece->get(), 263);
  limits_.constraints = &compiler;
  request_.prompt = {1};  // no text, so decoding would take the answer's first space off
  Generation generation = Make(" abé( ab)?");
  EXPECT_EQ(Favour(generation, {262, 261}), " ab\xC3\xA9 ab");
}

TEST_F(ConstrainedTest, ADeadEndIsAnErrorThatSaysWhatToDo) {
  absl::StatusOr<std::unique_ptr<const Tokenizer>> sentencepiece =
      lorad::Make(ByteFallbackDocument());
  ASSERT_OK(sentencepiece);
  ConstraintCompiler compiler(sentencepiece->get(), 1);  // of a head that has only "<unk>"
  limits_ = {.vocab = 1, .context_tokens = 64, .eos_ids = {}, .tokenizer = sentencepiece->get()};
  limits_.constraints = &compiler;
  request_.prompt = {0};
  Generation generation = Make("ab");
  EXPECT_THAT(generation.Advance(std::vector<float>(1, 0.0f)),
              StatusIs(StatusCode::kFailedPrecondition, "after 0 tokens no token of the model's"));
}

TEST_F(ConstrainedTest, NeedsATokenizer) {
  limits_.constraints = nullptr;
  EXPECT_THAT(CompileConstraint({ConstraintSpec::Kind::kJsonObject, ""}, limits_),
              StatusIs(StatusCode::kFailedPrecondition, "json_object needs a tokenizer"));
  EXPECT_OK(CompileConstraint({}, limits_));
}

// ---- Validation ---------------------------------------------------------------------------------

class ValidateTest : public GenerationTest {
 protected:
  void ExpectError(const char* text, StatusCode code = StatusCode::kInvalidArgument) {
    EXPECT_THAT(Validate(request_, limits_), StatusIs(code, text));
    request_ = {};
    request_.prompt = {'x'};
  }
};

TEST_F(ValidateTest, NamesWhatIsWrong) {
  EXPECT_OK(Validate(request_, limits_));
  request_.prompt = {};
  ExpectError("no tokens");
  request_.prompt = {1, 2, 261};
  ExpectError("prompt[2] is 261; ids of this model are in [0, 261)");
  request_.prompt = {-1};
  ExpectError("prompt[0] is -1");
  request_.max_tokens = -5;
  ExpectError("max_tokens is -5");
  request_.logprobs = 21;
  ExpectError("logprobs is 21; it must be in [0, 20]");
  request_.sampling.temperature = NAN;
  ExpectError("temperature is nan");
  request_.stop_ids = {500};
  ExpectError("stop_ids[0] is 500");
  request_.stop_ids.assign(65, 1);
  ExpectError("65 entries");
  request_.stop_strings.assign(17, "x");
  ExpectError("17 entries");
  request_.stop_strings = {"ok", ""};
  ExpectError("stop_strings[1] has 0 bytes");
  request_.stop_strings = {std::string(257, 'x')};
  ExpectError("257 bytes");
  request_.stop_strings = {"\xFF"};
  ExpectError("not valid UTF-8");
}

TEST_F(ValidateTest, APromptAsLongAsTheContextIsRefusedWithBothLengths) {
  request_.prompt.assign(63, 'x');
  EXPECT_OK(Validate(request_, limits_));
  request_.prompt.assign(64, 'x');
  ExpectError("the prompt has 64 tokens and leaves no room for an answer in the context of 64");
}

TEST_F(ValidateTest, StopStringsNeedATokenizer) {
  limits_.tokenizer = nullptr;
  request_.stop_strings = {"x"};
  ExpectError("tokenizer.json", StatusCode::kFailedPrecondition);
}

TEST_F(ValidateTest, Scores) {
  const auto validate = [this](std::vector<int32_t> ids) {
    ScoreRequest request;
    request.ids = std::move(ids);
    return Validate(request, limits_);
  };
  EXPECT_OK(validate({1}));
  EXPECT_OK(validate(std::vector<int32_t>(64, 1)));
  EXPECT_THAT(validate({}), StatusIs(StatusCode::kInvalidArgument, "at least one"));
  EXPECT_THAT(validate(std::vector<int32_t>(65, 1)),
              StatusIs(StatusCode::kInvalidArgument, "65 ids to score and the context has 64"));
  EXPECT_THAT(validate({1, 999}), StatusIs(StatusCode::kInvalidArgument, "ids[1] is 999"));
}

}  // namespace
}  // namespace lorad
