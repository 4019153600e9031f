// InferenceClient against a fake server: how messages become answers, and what is repeated.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/connection.h"
#include "client/inference.h"
#include "client/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_server.h"

namespace lorad::client {
namespace {

using ::testing::ElementsAre;

class InferenceClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(connection_, Connection::Open({.server = server_.address(),
                                                        .first_backoff = absl::Milliseconds(1),
                                                        .max_backoff = absl::Milliseconds(2)}));
  }

  FakeServer server_;
  std::shared_ptr<Connection> connection_;
};

void SendDelta(FakeInference::Writer* writer, const std::string& adapter, int32_t id,
               const std::string& text, bool last) {
  v1::GenerateResponse reply;
  reply.set_adapter(adapter);
  reply.set_text(text);
  reply.add_ids(id);
  if (last) reply.mutable_finish()->set_finish_reason(v1::FINISH_REASON_STOP);
  writer->Write(reply);
}

TEST_F(InferenceClientTest, DeltasMakeUpTheAnswer) {
  server_.inference.generate = [](grpc::ServerContext*, const v1::GenerateRequest&,
                                  FakeInference::Writer* writer) {
    SendDelta(writer, "a@1", 5, "he", false);
    SendDelta(writer, "a@1", 6, "llo", true);
    return grpc::Status::OK;
  };
  std::string streamed;
  ASSERT_OK_AND_ASSIGN(const Generation generation,
                       InferenceClient(connection_).Generate({}, [&](const auto& delta) {
                         streamed += delta.text();
                         return true;
                       }));
  EXPECT_EQ(generation.text, "hello");
  EXPECT_EQ(streamed, "hello");
  EXPECT_THAT(generation.ids, ElementsAre(5, 6));
  EXPECT_EQ(generation.adapter, "a@1");
}

TEST_F(InferenceClientTest, AnAnswerOfTwoVersionsIsRefused) {
  server_.inference.generate = [](grpc::ServerContext*, const v1::GenerateRequest&,
                                  FakeInference::Writer* writer) {
    SendDelta(writer, "a@1", 5, "he", false);
    SendDelta(writer, "a@2", 6, "llo", true);
    return grpc::Status::OK;
  };
  EXPECT_THAT(InferenceClient(connection_).Generate({}),
              StatusIs(absl::StatusCode::kInternal, "a@2"));
}

TEST_F(InferenceClientTest, GenerationIsRepeatedOnlyWhileNothingHasCome) {
  int calls = 0;
  bool send = false;
  server_.inference.generate = [&](grpc::ServerContext*, const v1::GenerateRequest&,
                                   FakeInference::Writer* writer) -> grpc::Status {
    ++calls;
    if (send) SendDelta(writer, "", 5, "he", false);
    if (send || calls == 1) return ServerError(grpc::UNAVAILABLE, "draining");
    SendDelta(writer, "", 5, "he", true);
    return grpc::Status::OK;
  };
  EXPECT_OK(InferenceClient(connection_).Generate({}));
  EXPECT_EQ(calls, 2);
  calls = 0;
  send = true;
  EXPECT_THAT(InferenceClient(connection_).Generate({}),
              StatusIs(absl::StatusCode::kUnavailable, "draining"));
  EXPECT_EQ(calls, 1);
}

TEST_F(InferenceClientTest, ACutOffAnswerIsAnError) {
  server_.inference.generate = [](grpc::ServerContext*, const v1::GenerateRequest&,
                                  FakeInference::Writer* writer) {
    SendDelta(writer, "", 5, "he", false);
    return grpc::Status::OK;
  };
  EXPECT_THAT(InferenceClient(connection_).Generate({}),
              StatusIs(absl::StatusCode::kInternal, "without a finish"));
}

TEST_F(InferenceClientTest, SamplesAreToldApartByTheirIndex) {
  server_.inference.generate = [](grpc::ServerContext*, const v1::GenerateRequest& request,
                                  FakeInference::Writer* writer) {
    v1::GenerateResponse reply;
    for (const int index : {1, 0, 1, 0}) {
      reply.set_index(index);
      reply.set_text(index == 0 ? "a" : "b");
      writer->Write(reply);
    }
    reply.clear_text();
    reply.mutable_finish()->set_finish_reason(v1::FINISH_REASON_STOP);
    for (int index = 0; index < request.n() - request.top_k(); ++index) {
      reply.set_index(index);
      writer->Write(reply);
    }
    return grpc::Status::OK;
  };
  v1::GenerateRequest request;
  request.set_n(2);
  InferenceClient client(connection_);
  ASSERT_OK_AND_ASSIGN(const std::vector<Generation> generations, client.GenerateSamples(request));
  ASSERT_EQ(generations.size(), 2u);
  EXPECT_EQ(generations[0].text, "aa");
  EXPECT_EQ(generations[1].text, "bb");
  request.set_top_k(1);  // the last finish is missing
  EXPECT_THAT(client.GenerateSamples(request),
              StatusIs(absl::StatusCode::kInternal, "without a finish"));
  EXPECT_THAT(client.Generate(request),
              StatusIs(absl::StatusCode::kInvalidArgument, "GenerateSamples"));
  request.set_n(1);
  EXPECT_THAT(client.Generate(request), StatusIs(absl::StatusCode::kInternal, "index 1"));
}

// A batch whose messages the test writes; returns what the client made of them.
class BatchClientTest : public InferenceClientTest {
 protected:
  absl::Status Run(std::vector<v1::GenerateBatchResponse> messages,
                   const grpc::Status& end = grpc::Status::OK) {
    server_.inference.generate_batch = [=, this](const v1::GenerateBatchRequest&,
                                                 FakeInference::BatchWriter* writer) {
      ++calls_;
      for (const auto& message : messages) writer->Write(message);
      return end;
    };
    v1::GenerateBatchRequest request;
    request.add_requests();
    request.add_requests()->set_n(2);
    heard_.clear();
    return InferenceClient(connection_)
        .GenerateBatch(request, [&](int index, absl::StatusOr<std::vector<Generation>> answers) {
          heard_.push_back({index, std::move(answers)});
          return more_;
        });
  }
  static v1::GenerateBatchResponse Part(int request, int index, const std::string& text,
                                        bool last) {
    v1::GenerateBatchResponse message;
    message.set_request_index(request);
    message.mutable_response()->set_index(index);
    message.mutable_response()->set_text(text);
    if (last) {
      message.mutable_response()->mutable_finish()->set_finish_reason(v1::FINISH_REASON_LENGTH);
    }
    return message;
  }
  static v1::GenerateBatchResponse Failure(int request) {
    v1::GenerateBatchResponse message;
    message.set_request_index(request);
    message.mutable_error()->ParseFromString(
        ServerError(grpc::INVALID_ARGUMENT, "top_k: bad", "top_k").error_details());
    return message;
  }

  std::vector<std::pair<int, absl::StatusOr<std::vector<Generation>>>> heard_;
  bool more_ = true;
  int calls_ = 0;
};

TEST_F(BatchClientTest, EachRequestIsHeardOnceWhenItIsWhole) {
  ASSERT_OK(Run({Part(1, 1, "x", true), Part(1, 0, "y", false), Part(0, 0, "z", true),
                 Part(1, 0, "y", true)}));
  ASSERT_EQ(heard_.size(), 2u);
  EXPECT_EQ(heard_[0].first, 0);
  EXPECT_EQ(heard_[0].second->at(0).text, "z");
  EXPECT_EQ(heard_[1].first, 1);
  EXPECT_EQ(heard_[1].second->at(0).text, "yy");
  EXPECT_EQ(heard_[1].second->at(1).text, "x");
}

TEST_F(BatchClientTest, AnErrorIsItsRequestsAlone) {
  ASSERT_OK(Run({Part(1, 0, "x", true), Failure(1), Part(0, 0, "z", true)}));
  ASSERT_EQ(heard_.size(), 2u);
  EXPECT_THAT(heard_[0].second, StatusIs(absl::StatusCode::kInvalidArgument, "top_k: bad"));
  const ErrorDetails details = DetailsOf(heard_[0].second.status());
  EXPECT_EQ(details.reason, "TEST");
  ASSERT_EQ(details.field_violations.size(), 1u);
  EXPECT_EQ(details.field_violations[0].field, "top_k");
  EXPECT_EQ(heard_[1].second->at(0).text, "z");
}

TEST_F(BatchClientTest, WhatDoesNotFitTheBatchIsRefused) {
  EXPECT_THAT(Run({Part(0, 0, "z", true)}), StatusIs(absl::StatusCode::kInternal, "before all"));
  EXPECT_THAT(Run({Part(2, 0, "z", true)}), StatusIs(absl::StatusCode::kInternal, "request 2"));
  EXPECT_THAT(Run({Failure(0), Part(0, 0, "z", true)}),
              StatusIs(absl::StatusCode::kInternal, "request 0"));
}

TEST_F(BatchClientTest, ACallerMayEndItAndAnErrorIsRepeatedOnlyWhileNothingHasCome) {
  more_ = false;
  EXPECT_THAT(Run({Part(0, 0, "z", true)}), StatusIs(absl::StatusCode::kCancelled, "the caller"));
  more_ = true;
  calls_ = 0;
  const grpc::Status draining = ServerError(grpc::UNAVAILABLE, "draining");
  EXPECT_THAT(Run({Part(0, 0, "z", true)}, draining),
              StatusIs(absl::StatusCode::kUnavailable, "draining"));
  EXPECT_EQ(calls_, 1);
  EXPECT_THAT(Run({}, draining), StatusIs(absl::StatusCode::kUnavailable, "draining"));
  EXPECT_GT(calls_, 2);
}

}  // namespace
}  // namespace lorad::client
