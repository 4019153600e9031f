// Text of several answers and of batches over the real engine and a small random model whose tokens
// are bytes: nearly every character and every stop string crosses a border of tokens. Also that
// what is cancelled or late gives its pages back.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"
#include "tests/support/byte_tokenizer.h"
#include "tests/support/tiny_model.h"

namespace lorad::server {
namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD
constexpr char kNoPages[] = "lorad_kv_cache_blocks{state=\"used\"} 0";

class GenerateTextTest : public ServerTest {
 protected:
  void SetUp() override {
    const std::string model = dir_.File("model");
    std::filesystem::create_directories(model);
    TinyModel({.vocab = 257}).Write(model);
    std::ofstream(model + "/tokenizer.json") << ByteTokenizerJson();
    config_.engine.model_dir = model;
    config_.engine.device = "cpu";
    config_.engine.num_threads = 2;
    config_.engine.memory_limit_bytes = int64_t{256} << 20;
    config_.engine.kv_cache_tokens = 16384;
    StartServer();
  }
  absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(const EngineConfig& config) override {
    return CreateEngine(config);
  }

  static v1::GenerateRequest Samples(const std::string& prompt, int n, uint64_t seed) {
    v1::GenerateRequest request = Prompt(prompt, "", 120);
    request.set_n(n);
    request.set_seed(seed);
    request.set_ignore_eos(true);
    return request;
  }
  std::string Decode(const std::vector<int32_t>& ids) {
    v1::DetokenizeRequest request;
    request.mutable_ids()->Assign(ids.begin(), ids.end());
    request.set_skip_special_tokens(true);  // as answers do
    v1::DetokenizeResponse response;
    EXPECT_GRPC(inference_->Detokenize(Context().get(), request, &response), OK, "");
    return response.text();
  }
  // Two characters of one of `answers` that do not begin it, so that something is before them.
  static std::string SomeOf(const std::vector<Answer>& answers) {
    for (const Answer& answer : answers) {
      const std::string& text = answer.text;
      for (size_t i = 8; i + 2 <= text.size(); ++i) {
        const std::string two = text.substr(i, 2);
        if (absl::ascii_isalnum(two[0]) && absl::ascii_isalnum(two[1]) && text.find(two) == i) {
          return two;
        }
      }
    }
    ADD_FAILURE() << "no two letters in " << answers.size() << " answers";
    return "";
  }
  // `answer`, of a request with `stop`, against `whole`, of the same request without.
  static void ExpectStopped(const Answer& answer, const Answer& whole, const std::string& stop) {
    const size_t at = whole.text.find(stop);
    EXPECT_EQ(answer.text, whole.text.substr(0, at));
    EXPECT_EQ(answer.finish.finish_reason(),
              at == std::string::npos ? v1::FINISH_REASON_LENGTH : v1::FINISH_REASON_STOP);
    ASSERT_LE(answer.ids.size(), whole.ids.size());
    EXPECT_TRUE(std::equal(answer.ids.begin(), answer.ids.end(), whole.ids.begin()));
  }
};

TEST_F(GenerateTextTest, EverySamplesTextIsThatOfItsIds) {
  std::set<std::string> texts;
  bool characters = false, replaced = false;
  for (const Answer& answer : GenerateSamples(Samples("hello", 16, 3))) {
    ASSERT_GRPC_OK(answer.status);
    EXPECT_EQ(answer.ids.size(), 120u);
    EXPECT_EQ(answer.text, Decode(answer.ids));
    texts.insert(answer.text);
    replaced |= absl::StrContains(answer.text, kReplacement);
    for (const char c : absl::StrReplaceAll(answer.text, {{kReplacement, ""}})) {
      characters |= static_cast<unsigned char>(c) >= 0x80;
    }
  }
  EXPECT_EQ(texts.size(), 16u) << "each has a seed of its own";
  EXPECT_TRUE(replaced) << "the case of bytes that are no character did not come up";
  EXPECT_TRUE(characters) << "the case of a character of several tokens did not come up";
}

TEST_F(GenerateTextTest, SamplesDoNotDependOnTheirNumber) {
  const std::vector<Answer> many = GenerateSamples(Samples("hello", 8, 3));
  const std::vector<Answer> few = GenerateSamples(Samples("hello", 2, 3));
  EXPECT_EQ(Generate(Samples("hello", 1, 3)).ids, many[0].ids);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(few[i].ids, many[i].ids);
}

TEST_F(GenerateTextTest, AStopStringAcrossTokensEndsEachSampleByItself) {
  const std::vector<Answer> whole = GenerateSamples(Samples("hello", 8, 5));
  const std::string stop = SomeOf(whole);
  v1::GenerateRequest request = Samples("hello", 8, 5);
  request.add_stop(stop);
  const std::vector<Answer> answers = GenerateSamples(request);
  for (int i = 0; i < 8; ++i) {
    SCOPED_TRACE(i);
    ASSERT_GRPC_OK(answers[i].status);
    ExpectStopped(answers[i], whole[i], stop);
  }
  EXPECT_TRUE(std::any_of(answers.begin(), answers.end(), [](const Answer& answer) {
    return answer.finish.finish_reason() == v1::FINISH_REASON_STOP;
  }));
}

TEST_F(GenerateTextTest, ABatchGivesWhatGenerateGives) {
  v1::GenerateBatchRequest batch;
  std::vector<std::vector<Answer>> whole;
  std::vector<std::string> stops;
  for (int i = 0; i < 12; ++i) {
    const v1::GenerateRequest request = Samples(absl::StrCat("prompt ", i), 1 + i % 3, i);
    whole.push_back(GenerateSamples(request));
    stops.push_back(SomeOf(whole.back()));
    *batch.add_requests() = request;
    if (i % 2 == 0) batch.mutable_requests(i)->add_stop(stops.back());
  }
  std::vector<std::vector<Answer>> answers;
  ASSERT_GRPC_OK(GenerateBatch(batch, answers));
  for (int i = 0; i < 12; ++i) {
    for (int sample = 0; sample < 1 + i % 3; ++sample) {
      SCOPED_TRACE(absl::StrCat("request ", i, " sample ", sample));
      const Answer& answer = answers[i][sample];
      ASSERT_GRPC_OK(answer.status);
      if (i % 2 == 0) {
        ExpectStopped(answer, whole[i][sample], stops[i]);
      } else {
        EXPECT_EQ(answer.text, whole[i][sample].text);
        EXPECT_EQ(answer.ids, whole[i][sample].ids);
      }
    }
  }
}

TEST_F(GenerateTextTest, CancelledSamplesAndBatchesGiveTheirPagesBack) {
  for (int round = 0; round < 5; ++round) {
    const auto one = Context(), two = Context();
    v1::GenerateRequest request = Samples("hello", 16, round);
    request.set_max_tokens(250);
    const auto samples = inference_->Generate(one.get(), request);
    v1::GenerateBatchRequest batch;
    for (int i = 0; i < 64; ++i) *batch.add_requests() = request;
    const auto many = inference_->GenerateBatch(two.get(), batch);
    v1::GenerateResponse response;
    for (int i = 0; i <= round * 5; ++i) ASSERT_TRUE(samples->Read(&response));
    one->TryCancel();
    two->TryCancel();
    EXPECT_GRPC(samples->Finish(), CANCELLED, "");
    EXPECT_GRPC(many->Finish(), CANCELLED, "");
    EXPECT_TRUE(AwaitMetric(kNoPages));
    EXPECT_TRUE(AwaitMetric("lorad_inference_running_requests 0"));
  }
}

TEST_F(GenerateTextTest, ADeadlineGivesThePagesBack) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(60));
  v1::GenerateBatchRequest batch;
  for (int i = 0; i < 500; ++i) *batch.add_requests() = Samples("hello", 4, i);
  const auto reader = inference_->GenerateBatch(&context, batch);
  v1::GenerateBatchResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_GRPC(reader->Finish(), DEADLINE_EXCEEDED, "");
  EXPECT_TRUE(AwaitMetric("lorad_inference_running_requests 0"));
  EXPECT_TRUE(AwaitMetric(kNoPages));
}

}  // namespace
}  // namespace lorad::server
