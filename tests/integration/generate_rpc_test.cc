// Several answers to a prompt, and batches, over a channel and the fake engine: what comes back, in
// which order it enters the engine, what fails alone, what ends together.
#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "server/rpc/generate_request.h"
#include "tests/integration/server_fixture.h"

namespace lorad::server {
namespace {

constexpr int kMaxRunning = 64;  // the default of --max_running_requests

// What the fake answers when it is `seeded`.
std::string Shifted(std::string text, uint64_t seed) {
  for (char& c : text) c = static_cast<char>('a' + (c - 'a' + seed % 26) % 26);
  return text;
}

class GenerateTest : public ServerTest {
 protected:
  void Restart(int max_running, int max_queued) {
    app_.reset();
    config_.engine.max_running_requests = max_running;
    config_.engine.max_queued_requests = max_queued;
    StartServer();
  }
  static v1::GenerateBatchRequest Batch(int count, int max_tokens) {
    v1::GenerateBatchRequest batch;
    for (int i = 0; i < count; ++i) {
      *batch.add_requests() = Prompt(absl::StrCat("prompt ", i), "", max_tokens);
    }
    return batch;
  }
  static std::string ExpectedOf(const v1::GenerateRequest& request) {
    return Expected(request.prompt(), "", request.max_tokens());
  }
  std::vector<std::vector<Answer>> answers_;
};

TEST_F(GenerateTest, EachSampleHasItsSeedAndItsFinish) {
  script_->seeded = true;
  v1::GenerateRequest request = Prompt("hello", "", 30);
  request.set_seed(7);
  const Answer alone = Generate(request);
  request.set_n(5);
  const std::vector<Answer> answers = GenerateSamples(request);
  ASSERT_EQ(answers.size(), 5u);
  EXPECT_EQ(answers[0].text, alone.text);
  for (int i = 0; i < 5; ++i) {
    ASSERT_GRPC_OK(answers[i].status);
    EXPECT_EQ(answers[i].text, Shifted(Expected("hello", "", 30), SampleSeed(7, i))) << i;
    EXPECT_EQ(answers[i].finish.finish_reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(answers[i].finish.usage().generated_tokens(), 30);
    request.set_seed(SampleSeed(7, i));
    request.set_n(1);
    EXPECT_EQ(Generate(request).text, answers[i].text) << "sample " << i << " by its own seed";
  }
  EXPECT_TRUE(AwaitMetric("lorad_inference_running_requests 0"));
}

TEST_F(GenerateTest, SamplesOfAnAdapterAreAllOfOneVersion) {
  const std::string ref = ImportOk("sql", "x");
  v1::GenerateRequest request = Prompt("hello", "sql", 8);
  request.set_n(16);
  for (const Answer& answer : GenerateSamples(request)) {
    ASSERT_GRPC_OK(answer.status);
    EXPECT_THAT(answer.adapters, ::testing::ElementsAre(ref));
  }
}

TEST_F(GenerateTest, TheNumberOfSamplesIsBounded) {
  v1::GenerateRequest request = Prompt("x", "", 1);
  request.set_n(17);
  grpc::Status status = GenerateSamples(request)[0].status;
  EXPECT_GRPC(status, INVALID_ARGUMENT, "n: 17 is not in 1..16");
  EXPECT_EQ(Reason(status), "INVALID_FIELD");
  request.set_n(-1);
  EXPECT_GRPC(GenerateSamples(request)[0].status, INVALID_ARGUMENT, "n: -1");
  Restart(kMaxRunning, 4);
  request.set_n(5);
  status = GenerateSamples(request)[0].status;
  EXPECT_GRPC(status, INVALID_ARGUMENT, "queue of 4");
  EXPECT_EQ(RetryDelay(status), std::nullopt) << "trying again never helps";
}

TEST_F(GenerateTest, SamplesEnterTheQueueTogetherOrNotAtAll) {
  script_->max_queued = 7;
  v1::GenerateRequest request = Prompt("x", "", 20);
  request.set_n(8);
  const grpc::Status status = GenerateSamples(request)[0].status;
  EXPECT_GRPC(status, RESOURCE_EXHAUSTED, "queue is full");
  EXPECT_EQ(Reason(status), "QUEUE_FULL");
  EXPECT_EQ(RetryDelay(status), absl::Seconds(1));
  EXPECT_EQ(script_->most_running, 0) << "none of them began";
  request.set_n(7);
  EXPECT_GRPC(GenerateSamples(request)[6].status, OK, "");
  EXPECT_EQ(script_->most_running, 7);
}

TEST_F(GenerateTest, ACancelEndsAllSamples) {
  script_->token_delay_us = 2000;
  v1::GenerateRequest request = Prompt("x", "", 400);
  request.set_n(16);
  const auto context = Context();
  const auto reader = inference_->Generate(context.get(), request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context->TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_GRPC(reader->Finish(), CANCELLED, "");
  EXPECT_TRUE(AwaitMetric("lorad_inference_requests_total{finish_reason=\"cancelled\"} 16"));
  EXPECT_TRUE(AwaitMetric("lorad_inference_running_requests 0"));
}

TEST_F(GenerateTest, ABatchAnswersEveryRequest) {
  v1::GenerateBatchRequest batch = Batch(300, 12);
  for (int i = 0; i < 300; ++i) batch.mutable_requests(i)->set_n(i % 4);
  ASSERT_GRPC_OK(GenerateBatch(batch, answers_));
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(answers_[i].size(), static_cast<size_t>(std::max(1, i % 4)));
    for (const Answer& answer : answers_[i]) {
      ASSERT_GRPC_OK(answer.status);
      EXPECT_EQ(answer.text, ExpectedOf(batch.requests(i)));
      EXPECT_EQ(answer.messages, 1) << "a short answer comes whole";
      EXPECT_EQ(answer.finish.usage().generated_tokens(), 12);
    }
  }
  EXPECT_TRUE(
      AwaitMetric("lorad_grpc_requests_total{code=\"OK\",method=\"GenerateBatch\",service="
                  "\"lorad.v1.InferenceService\"} 1"));
}

TEST_F(GenerateTest, ALongAnswerOfABatchComesInParts) {
  v1::GenerateBatchRequest batch = Batch(2, 500);
  for (auto& request : *batch.mutable_requests()) request.set_logprobs(20);
  ASSERT_GRPC_OK(GenerateBatch(batch, answers_));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(answers_[i][0].text, ExpectedOf(batch.requests(i)));
    EXPECT_GT(answers_[i][0].messages, 1);
    EXPECT_LT(answers_[i][0].messages, 10);
  }
}

// The engine's queue is for everyone: a batch has no more there than can run soon.
TEST_F(GenerateTest, ALargeBatchWaitsInTheCall) {
  script_->token_delay_us = 100;
  Restart(/*max_running=*/8, /*max_queued=*/100);
  ASSERT_GRPC_OK(GenerateBatch(Batch(4096, 2), answers_));
  EXPECT_LE(script_->most_running, 10);
  EXPECT_GE(script_->most_running, 8);
}

TEST_F(GenerateTest, AFullQueueDelaysABatchAndFailsNothing) {
  script_->token_delay_us = 200;
  script_->max_queued = 3;  // fewer than the batch would have there
  v1::GenerateBatchRequest batch = Batch(40, 10);
  for (int i = 0; i < 40; ++i) batch.mutable_requests(i)->set_n(1 + i % 3);
  ASSERT_GRPC_OK(GenerateBatch(batch, answers_));
  for (int i = 0; i < 40; ++i) {
    for (const Answer& answer : answers_[i]) {
      ASSERT_GRPC_OK(answer.status);
      EXPECT_EQ(answer.text, ExpectedOf(batch.requests(i)));
    }
  }
  EXPECT_EQ(script_->most_running, 3);
}

// Nothing of the batch's own ends then, so it must look again by itself.
TEST_F(GenerateTest, ABatchBeginsWhenOthersLeaveTheQueue) {
  script_->max_queued = 0;
  std::thread others([&] {
    absl::SleepFor(absl::Milliseconds(120));
    script_->max_queued = 10;
  });
  EXPECT_GRPC(GenerateBatch(Batch(3, 5), answers_), OK, "");
  others.join();
  for (const auto& answer : answers_) EXPECT_GRPC(answer[0].status, OK, "");
}

TEST_F(GenerateTest, RequestsOfABatchFailByThemselvesWithTheirDetails) {
  v1::GenerateBatchRequest batch = Batch(6, 5);
  batch.mutable_requests(1)->set_temperature(-1);
  batch.mutable_requests(2)->set_adapter("none");
  batch.mutable_requests(3)->clear_input();
  batch.mutable_requests(4)->set_n(99);
  ASSERT_GRPC_OK(GenerateBatch(batch, answers_));
  EXPECT_EQ(answers_[0][0].text, ExpectedOf(batch.requests(0)));
  EXPECT_EQ(answers_[5][0].text, ExpectedOf(batch.requests(5)));
  EXPECT_GRPC(answers_[1][0].status, INVALID_ARGUMENT, "temperature: -1");
  EXPECT_EQ(Reason(answers_[1][0].status), "INVALID_FIELD");
  EXPECT_GRPC(answers_[2][0].status, NOT_FOUND, "\"none\"");
  EXPECT_EQ(Reason(answers_[2][0].status), "ADAPTER_NOT_FOUND");
  EXPECT_GRPC(answers_[3][0].status, INVALID_ARGUMENT, "prompt: or prompt_ids is required");
  EXPECT_GRPC(answers_[4][0].status, INVALID_ARGUMENT, "n: 99");
}

TEST_F(GenerateTest, ABatchOfTheWrongSizeIsRefused) {
  grpc::Status status = GenerateBatch({}, answers_);
  EXPECT_GRPC(status, INVALID_ARGUMENT, "requests: at least one");
  EXPECT_EQ(Reason(status), "INVALID_FIELD");
  status = GenerateBatch(Batch(4097, 1), answers_);
  EXPECT_GRPC(status, INVALID_ARGUMENT, "4097 requests, at most 4096");
  EXPECT_EQ(script_->most_running, 0);
}

TEST_F(GenerateTest, ACancelledBatchStopsAsAWhole) {
  script_->token_delay_us = 2000;
  const auto context = Context();
  v1::GenerateBatchRequest batch = Batch(2000, 400);
  batch.mutable_requests(0)->set_max_tokens(1);
  const auto reader = inference_->GenerateBatch(context.get(), batch);
  v1::GenerateBatchResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.request_index(), 0);
  context->TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_GRPC(reader->Finish(), CANCELLED, "");
  EXPECT_TRUE(AwaitMetric("lorad_inference_running_requests 0"));
  EXPECT_LE(script_->most_running, kMaxRunning + kMaxRunning / 4) << "no other began after it";
}

TEST_F(GenerateTest, ADeadlineEndsABatch) {
  script_->token_delay_us = 2000;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  const auto reader = inference_->GenerateBatch(&context, Batch(500, 400));
  v1::GenerateBatchResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_GRPC(reader->Finish(), DEADLINE_EXCEEDED, "");
  EXPECT_TRUE(AwaitMetric("lorad_inference_running_requests 0"));
}

// What runs is finished, what waits is sent away, and every request hears which.
TEST_F(GenerateTest, ADrainEndsABatchEarlyButNotWhatRuns) {
  script_->token_delay_us = 1000;
  Restart(/*max_running=*/4, /*max_queued=*/100);
  v1::GenerateBatchRequest batch = Batch(100, 100);
  std::thread drain([&] {
    for (int i = 0; i < 2000 && script_->most_running == 0; ++i) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    app_->Drain();
  });
  EXPECT_GRPC(GenerateBatch(batch, answers_), OK, "");
  drain.join();
  int complete = 0;
  for (int i = 0; i < 100; ++i) {
    const Answer& answer = answers_[i][0];
    if (answer.status.ok()) {
      EXPECT_EQ(answer.text, ExpectedOf(batch.requests(i)));
      ++complete;
    } else {
      EXPECT_GRPC(answer.status, UNAVAILABLE, "");
      EXPECT_TRUE(RetryDelay(answer.status).has_value());
      EXPECT_EQ(answer.text, "");
    }
  }
  EXPECT_GE(complete, 1);
  EXPECT_LT(complete, 100);
}

}  // namespace
}  // namespace lorad::server
