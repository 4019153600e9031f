// Readers that do not read: what they hold, when they are cut off, and that nobody else notices.
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "tests/integration/server_fixture.h"

namespace lorad::server {
namespace {

// Its streams take little that is not read: 64 KiB of HTTP/2 flow control each.
class SlowReaderTest : public ServerTest {
 protected:
  void Restart(int64_t backlog_bytes, absl::Duration stall) {
    app_.reset();
    config_.max_stream_backlog_bytes = backlog_bytes;
    config_.max_stream_stall = stall;
    StartServer();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    slow_ = v1::InferenceService::NewStub(grpc::CreateCustomChannel(
        app_->grpc_address(), grpc::InsecureChannelCredentials(), arguments));
  }
  // About 170 KiB of output.
  static v1::GenerateRequest LongRequest() {
    v1::GenerateRequest request = Prompt("x", "", 511);
    request.set_logprobs(20);
    return request;
  }
  void StartSlowReaders(int count, const v1::GenerateRequest& request) {
    for (int i = 0; i < count; ++i) {
      contexts_.push_back(Context());
      readers_.push_back(slow_->Generate(contexts_.back().get(), request));
    }
  }
  bool AwaitInFlight(const std::string& method, int count) {
    return AwaitMetric(absl::StrCat("lorad_grpc_requests_in_flight{method=\"", method,
                                    "\",service=\"lorad.v1.InferenceService\"} ", count));
  }
  // Reads what there is; the text of answer 0.
  static grpc::Status ReadRest(grpc::ClientReader<v1::GenerateResponse>& reader,
                               std::string* text) {
    v1::GenerateResponse response;
    while (reader.Read(&response)) {
      if (response.index() == 0) *text += response.text();
    }
    return reader.Finish();
  }

  std::unique_ptr<v1::InferenceService::Stub> slow_;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts_;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers_;
};

TEST_F(SlowReaderTest, ABacklogIsBoundedAndItsReaderCutOff) {
  Restart(4096, absl::Seconds(30));
  StartSlowReaders(4, LongRequest());
  for (int i = 0; i < 20; ++i) {
    const Answer answer = Generate(Prompt("hello", "", 50));
    ASSERT_GRPC_OK(answer.status);
    ASSERT_EQ(answer.text, Expected("hello", "", 50));
  }
  for (const auto& reader : readers_) {
    std::string text;
    const grpc::Status status = ReadRest(*reader, &text);
    EXPECT_GRPC(status, RESOURCE_EXHAUSTED, "more than 4096 bytes");
    EXPECT_EQ(Reason(status), "SLOW_READER");
    EXPECT_EQ(RetryDelay(status), std::nullopt);
    EXPECT_EQ(text, Expected("x", "", 511).substr(0, text.size())) << "what came is right";
    EXPECT_LT(text.size(), 511u);
  }
}

// One client stops reading while eight go on: they take as long as without it.
TEST_F(SlowReaderTest, EightOthersFinishInNormalTime) {
  Restart(int64_t{1} << 20, absl::Seconds(30));
  script_->token_delay_us = 500;
  const auto run_eight = [&] {
    const absl::Time begin = absl::Now();
    std::vector<std::thread> clients;
    for (int i = 0; i < 8; ++i) {
      clients.emplace_back([&] {
        const Answer answer = Generate(Prompt("hello", "", 400));
        EXPECT_GRPC(answer.status, OK, "");
        EXPECT_EQ(answer.text, Expected("hello", "", 400));
      });
    }
    for (std::thread& client : clients) client.join();
    return absl::Now() - begin;
  };
  const absl::Duration alone = run_eight();
  v1::GenerateRequest request = LongRequest();
  request.set_n(16);
  StartSlowReaders(1, request);
  const absl::Duration beside = run_eight();
  // Twice, and a pause of the machine's: far from what the slow stream lasts, which is for ever.
  EXPECT_LT(beside, 2 * alone + absl::Milliseconds(500));
  std::string text;
  const grpc::Status status = ReadRest(*readers_[0], &text);
  EXPECT_GRPC(status, RESOURCE_EXHAUSTED, "more than 1048576 bytes");
  EXPECT_EQ(text, Expected("x", "", 511).substr(0, text.size()));
}

// The limit of time holds when the backlog is far from its own, and also after the last token.
TEST_F(SlowReaderTest, AStalledReaderIsCutOffByTime) {
  Restart(int64_t{1} << 30, absl::Seconds(2));
  StartSlowReaders(1, LongRequest());
  absl::SleepFor(absl::Seconds(3));  // past the limit, before the call is broken off
  std::string text;
  const grpc::Status status = ReadRest(*readers_[0], &text);
  EXPECT_GRPC(status, RESOURCE_EXHAUSTED, "took no message for 2s");
  EXPECT_EQ(Reason(status), "SLOW_READER");
  EXPECT_EQ(text, Expected("x", "", 511).substr(0, text.size()));
  EXPECT_LT(text.size(), 511u);
}

// Its last write has been under way for most of the stall time by then: it has that time again to
// come to the status.
TEST_F(SlowReaderTest, AReaderCutOffForItsBacklogHasTimeToSeeWhy) {
  constexpr absl::Duration kStall = absl::Seconds(3);
  Restart(int64_t{2} << 20, kStall);
  script_->token_delay_us = 10'000;
  v1::GenerateRequest request = LongRequest();
  request.set_n(16);
  const absl::Time began = absl::Now();
  StartSlowReaders(1, request);
  absl::SleepFor(absl::Milliseconds(300));  // some 30 tokens of each answer: a write is stuck
  script_->token_delay_us = 1'500'000;      // a pause, then all the rest at once
  absl::SleepFor(absl::Milliseconds(100));
  script_->token_delay_us = 0;
  EXPECT_TRUE(AwaitMetric("lorad_inference_running_requests 0")) << "it is cut off";
  absl::SleepFor(began + kStall + absl::Milliseconds(700) - absl::Now());
  std::string text;
  const grpc::Status status = ReadRest(*readers_[0], &text);
  EXPECT_GRPC(status, RESOURCE_EXHAUSTED, "more than 2097152 bytes");
  EXPECT_EQ(Reason(status), "SLOW_READER");
}

// A client that never reads again holds nothing for longer than twice the limit.
TEST_F(SlowReaderTest, AReaderThatIsGoneForGoodIsGivenUp) {
  Restart(int64_t{1} << 20, absl::Milliseconds(500));
  StartSlowReaders(3, LongRequest());
  EXPECT_TRUE(AwaitInFlight("Generate", 3));
  EXPECT_TRUE(AwaitInFlight("Generate", 0));
  EXPECT_TRUE(AwaitMetric("lorad_inference_running_requests 0"));
  for (const auto& reader : readers_) {
    std::string text;
    EXPECT_FALSE(ReadRest(*reader, &text).ok());
  }
}

// A pause shorter than the limit costs a reader nothing.
TEST_F(SlowReaderTest, AReaderThatComesBackGetsEverything) {
  Restart(int64_t{1} << 20, absl::Seconds(10));
  v1::GenerateRequest request = LongRequest();
  request.set_n(3);
  StartSlowReaders(1, request);
  absl::SleepFor(absl::Milliseconds(300));
  std::string text;
  EXPECT_GRPC(ReadRest(*readers_[0], &text), OK, "");
  EXPECT_EQ(text, Expected("x", "", 511));
}

// A batch is not cut off for its bytes: it is given no new work until its reader has caught up.
TEST_F(SlowReaderTest, ABatchWaitsForItsReader) {
  config_.engine.max_running_requests = 4;
  Restart(4096, absl::Seconds(30));
  v1::GenerateBatchRequest batch;
  for (int i = 0; i < 40; ++i) *batch.add_requests() = LongRequest();
  const auto context = Context();
  const auto reader = slow_->GenerateBatch(context.get(), batch);
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_TRUE(AwaitMetric("lorad_inference_running_requests 0")) << "all that was begun has ended";
  EXPECT_TRUE(AwaitInFlight("GenerateBatch", 1)) << "and the rest waits";
  int finished = 0;
  v1::GenerateBatchResponse message;
  std::vector<std::string> texts(40);
  while (reader->Read(&message)) {
    texts.at(message.request_index()) += message.response().text();
    if (message.response().has_finish()) ++finished;
  }
  ASSERT_GRPC_OK(reader->Finish());
  EXPECT_EQ(finished, 40);
  for (const std::string& text : texts) EXPECT_EQ(text, Expected("x", "", 511));
}

TEST_F(SlowReaderTest, ABatchIsCutOffByTime) {
  Restart(4096, absl::Milliseconds(500));
  v1::GenerateBatchRequest batch;
  for (int i = 0; i < 40; ++i) *batch.add_requests() = LongRequest();
  const auto context = Context();
  const auto reader = slow_->GenerateBatch(context.get(), batch);
  EXPECT_TRUE(AwaitInFlight("GenerateBatch", 1));
  EXPECT_TRUE(AwaitInFlight("GenerateBatch", 0));
  v1::GenerateBatchResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

}  // namespace
}  // namespace lorad::server
