// The client library against a fake server: retries, resumed uploads and watches, streams, files.
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/adapters.h"
#include "client/connection.h"
#include "client/datasets.h"
#include "client/inference.h"
#include "client/jobs.h"
#include "client/status.h"
#include "engine/io/file.h"
#include "engine/io/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_server.h"

namespace lorad::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = absl::StrCat(::testing::TempDir(), "client_", getpid());
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
    auto connection = Connection::Open({.server = server_.address(),
                                        .first_backoff = absl::Milliseconds(1),
                                        .max_backoff = absl::Milliseconds(5)});
    ASSERT_OK(connection);
    connection_ = *connection;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string WriteTemp(const std::string& name, const std::string& content) {
    const std::string path = absl::StrCat(dir_, "/", name);
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  FakeServer server_;
  std::shared_ptr<Connection> connection_;
  std::string dir_;
};

// --- retries ---

TEST_F(ClientTest, UnavailableIsRepeatedOnIdempotentCalls) {
  std::atomic<int> calls = 0;
  server_.jobs.get = [&](const v1::GetJobRequest& request, v1::Job* job) {
    if (++calls < 3) return ServerError(grpc::UNAVAILABLE, "loading");
    job->set_job_id(request.job_id());
    return grpc::Status::OK;
  };
  ASSERT_OK_AND_ASSIGN(const v1::Job job, JobClient(connection_).Get("job-1"));
  EXPECT_EQ(job.job_id(), "job-1");
  EXPECT_EQ(calls, 3);
}

TEST_F(ClientTest, ItGivesUpAfterMaxAttempts) {
  std::atomic<int> calls = 0;
  server_.jobs.get = [&](const v1::GetJobRequest&, v1::Job*) {
    ++calls;
    return ServerError(grpc::UNAVAILABLE, "loading");
  };
  EXPECT_THAT(JobClient(connection_).Get("job-1"),
              StatusIs(absl::StatusCode::kUnavailable, "loading"));
  EXPECT_EQ(calls, 4);
}

TEST_F(ClientTest, OtherErrorsAndOtherCallsAreNotRepeated) {
  std::atomic<int> calls = 0;
  server_.jobs.get = [&](const v1::GetJobRequest&, v1::Job*) {
    ++calls;
    return ServerError(grpc::INTERNAL, "bug");
  };
  EXPECT_THAT(JobClient(connection_).Get("job-1"), StatusIs(absl::StatusCode::kInternal, "bug"));
  EXPECT_EQ(calls, 1);
  std::atomic<int> moves = 0;
  server_.adapters.set_alias = [&](const v1::SetAliasRequest&, v1::Alias*) {
    ++moves;
    return ServerError(grpc::UNAVAILABLE, "draining");
  };
  EXPECT_THAT(AdapterClient(connection_).SetAlias("a", "b", "c"),
              StatusIs(absl::StatusCode::kUnavailable, "draining"));
  EXPECT_EQ(moves, 1);
}

TEST_F(ClientTest, ACallThatGrpcItselfCancelsIsUnavailableAndRepeated) {
  std::atomic<int> calls = 0;
  server_.jobs.get = [&](const v1::GetJobRequest&, v1::Job*) {
    return ++calls < 2 ? grpc::Status::CANCELLED : ServerError(grpc::CANCELLED, "by the server");
  };
  EXPECT_THAT(JobClient(connection_).Get("job-1"),
              StatusIs(absl::StatusCode::kCancelled, "by the server"));
  EXPECT_EQ(calls, 2);
}

TEST_F(ClientTest, ARepeatedSubmitKeepsItsRequestId) {
  std::vector<std::string> ids;
  server_.jobs.submit = [&](const v1::SubmitJobRequest& request, v1::SubmitJobResponse* reply) {
    ids.push_back(request.request_id());
    if (ids.size() < 2) return ServerError(grpc::UNAVAILABLE, "loading");
    reply->mutable_job()->set_job_id("job-1");
    return grpc::Status::OK;
  };
  ASSERT_OK(JobClient(connection_).Submit({}));
  ASSERT_EQ(ids.size(), 2u);
  EXPECT_EQ(ids[0], ids[1]);
  EXPECT_EQ(ids[0].size(), 36u);
  EXPECT_NE(NewRequestId(), NewRequestId());
}

TEST_F(ClientTest, ErrorDetailsComeThrough) {
  server_.jobs.submit = [](const v1::SubmitJobRequest&, v1::SubmitJobResponse*) {
    return ServerError(grpc::INVALID_ARGUMENT, "r: 0", "spec.training.r");
  };
  const auto job = JobClient(connection_).Submit({});
  EXPECT_THAT(job, StatusIs(absl::StatusCode::kInvalidArgument, "r: 0"));
  const ErrorDetails details = DetailsOf(job.status());
  EXPECT_EQ(details.reason, "TEST");
  ASSERT_EQ(details.field_violations.size(), 1u);
  EXPECT_EQ(details.field_violations[0].field, "spec.training.r");
  EXPECT_FALSE(IsTransportFailure(job.status()));
}

TEST_F(ClientTest, NobodyListeningIsUnavailableSoon) {
  ASSERT_OK_AND_ASSIGN(const auto nobody, Connection::Open({.server = "127.0.0.1:1"}));
  const absl::Time start = absl::Now();
  const auto job = JobClient(nobody).Get("job-1");
  EXPECT_THAT(job, StatusIs(absl::StatusCode::kUnavailable, ""));
  EXPECT_TRUE(IsTransportFailure(job.status()));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST_F(ClientTest, TheDeadlineHoldsForAllCalls) {
  ASSERT_OK_AND_ASSIGN(const auto hurried,
                       Connection::Open({.server = server_.address(),
                                         .deadline = absl::Now() + absl::Milliseconds(50)}));
  server_.jobs.get = [](const v1::GetJobRequest&, v1::Job*) {
    absl::SleepFor(absl::Milliseconds(300));
    return grpc::Status::OK;
  };
  EXPECT_THAT(JobClient(hurried).Get("job-1"), StatusIs(absl::StatusCode::kDeadlineExceeded, ""));
}

TEST_F(ClientTest, ATokenDoesNotTravelInClearToAnotherHost) {
  EXPECT_THAT(Connection::Open({.server = "example.org:7430", .token = "secret"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "in clear"));
  EXPECT_OK(Connection::Open({.server = "127.0.0.1:7430", .token = "secret"}));
  EXPECT_THAT(Connection::Open({.tls_cert = "c.pem"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "tls_key"));
}

// --- uploads ---

// Keeps what arrives, and breaks the connection after `break_after` bytes, `breaks` times.
struct UploadServer {
  explicit UploadServer(FakeDatasets& datasets) {
    datasets.upload = [this](FakeDatasets::Reader* reader, v1::UploadDatasetResponse* reply) {
      return Upload(reader, reply);
    };
    datasets.query = [this](const v1::QueryUploadRequest& request,
                            v1::QueryUploadResponse* reply) -> grpc::Status {
      if (held.empty()) return ServerError(grpc::NOT_FOUND, "no upload");
      EXPECT_EQ(request.request_id(), metadata.request_id());
      reply->set_committed_bytes(static_cast<int64_t>(held.size()));
      return grpc::Status::OK;
    };
  }

  grpc::Status Upload(FakeDatasets::Reader* reader, v1::UploadDatasetResponse* reply) {
    v1::UploadDatasetRequest request;
    if (!reader->Read(&request)) return ServerError(grpc::INVALID_ARGUMENT, "no metadata");
    metadata = request.metadata();
    bool first = true;
    while (reader->Read(&request)) {
      if (first) offsets.push_back(request.chunk().offset());
      first = false;
      held.resize(request.chunk().offset());
      held += request.chunk().data();
      if (static_cast<int64_t>(held.size()) >= break_after && breaks > 0) {
        --breaks;
        return grpc::Status(grpc::UNAVAILABLE, "Socket closed");
      }
    }
    reply->mutable_dataset()->set_name(metadata.name());
    reply->mutable_dataset()->set_sha256(Sha256Hex(held));
    return grpc::Status::OK;
  }

  std::string held;
  v1::UploadDatasetMetadata metadata;
  std::vector<int64_t> offsets;
  int64_t break_after = 0;
  int breaks = 0;
};

std::string Megabytes(double count) {
  std::string content(static_cast<size_t>(count * (1 << 20)), '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 31 + i / 4096);
  return content;
}

TEST_F(ClientTest, ABrokenUploadContinuesWhereItBroke) {
  UploadServer upload(server_.datasets);
  upload.break_after = 2 << 20;
  upload.breaks = 1;
  const std::string content = Megabytes(3.5);
  std::vector<int64_t> progress;
  ASSERT_OK_AND_ASSIGN(
      const auto reply,
      DatasetClient(connection_)
          .Upload({.name = "d",
                   .path = WriteTemp("d.jsonl", content),
                   .progress = [&](int64_t sent, int64_t) { progress.push_back(sent); }}));
  EXPECT_EQ(reply.dataset().sha256(), Sha256Hex(content));
  EXPECT_EQ(upload.held, content);
  EXPECT_THAT(upload.offsets, ElementsAre(0, 2 << 20));
  EXPECT_EQ(upload.metadata.sha256(), Sha256Hex(content));
  EXPECT_EQ(upload.metadata.size_bytes(), static_cast<int64_t>(content.size()));
  EXPECT_EQ(progress.back(), static_cast<int64_t>(content.size()));
}

TEST_F(ClientTest, AnUploadThatGetsNowhereIsGivenUp) {
  int calls = 0;
  server_.datasets.upload = [&](FakeDatasets::Reader*, v1::UploadDatasetResponse*) {
    ++calls;
    return grpc::Status(grpc::UNAVAILABLE, "Socket closed");
  };
  EXPECT_THAT(DatasetClient(connection_).Upload({.name = "d", .path = WriteTemp("d", "x")}),
              StatusIs(absl::StatusCode::kUnavailable, ""));
  EXPECT_EQ(calls, 4);
}

TEST_F(ClientTest, ARefusedUploadIsNotRepeated) {
  int calls = 0;
  server_.datasets.upload = [&](FakeDatasets::Reader*, v1::UploadDatasetResponse*) {
    ++calls;
    return ServerError(grpc::INVALID_ARGUMENT, "line 7: not JSON");
  };
  const auto reply =
      DatasetClient(connection_).Upload({.name = "d", .path = WriteTemp("d", Megabytes(4))});
  EXPECT_THAT(reply, StatusIs(absl::StatusCode::kInvalidArgument, "line 7"));
  EXPECT_EQ(calls, 1);
}

TEST_F(ClientTest, MissingAndEmptyFilesAreNamedBeforeAnythingIsSent) {
  EXPECT_THAT(DatasetClient(connection_).Upload({.name = "d", .path = "/nowhere/d.jsonl"}),
              StatusIs(absl::StatusCode::kNotFound, "/nowhere/d.jsonl"));
  EXPECT_THAT(DatasetClient(connection_).Upload({.name = "d", .path = WriteTemp("e", "")}),
              StatusIs(absl::StatusCode::kInvalidArgument, "/e"));
}

TEST_F(ClientTest, ListsComePageByPage) {
  server_.datasets.list = [](const v1::ListDatasetsRequest& request,
                             v1::ListDatasetsResponse* reply) {
    const int page = request.page_token().empty() ? 0 : std::stoi(request.page_token());
    reply->add_datasets()->set_name(absl::StrCat("d", page));
    if (page < 2) reply->set_next_page_token(absl::StrCat(page + 1));
    return grpc::Status::OK;
  };
  ASSERT_OK_AND_ASSIGN(const auto datasets, DatasetClient(connection_).List());
  ASSERT_EQ(datasets.size(), 3u);
  EXPECT_EQ(datasets[2].name(), "d2");
}

// --- watching ---

void SendStep(FakeJobs::Writer* writer, int64_t seq) {
  v1::WatchJobResponse reply;
  reply.mutable_event()->set_seq(seq);
  reply.mutable_event()->mutable_step()->set_step(seq);
  writer->Write(reply);
}

void SendSuccess(FakeJobs::Writer* writer, int64_t seq) {
  v1::WatchJobResponse reply;
  reply.mutable_event()->set_seq(seq);
  reply.mutable_event()->mutable_state_change()->set_to(v1::JOB_STATE_SUCCEEDED);
  writer->Write(reply);
}

TEST_F(ClientTest, ABrokenWatchContinuesAfterItsLastEvent) {
  std::vector<int64_t> asked;
  server_.jobs.watch = [&](grpc::ServerContext*, const v1::WatchJobRequest& request,
                           FakeJobs::Writer* writer) {
    asked.push_back(request.after_seq());
    if (asked.size() == 1) {
      SendStep(writer, 1);
      SendStep(writer, 2);
      return grpc::Status(grpc::UNAVAILABLE, "Socket closed");
    }
    if (asked.size() == 2) return ServerError(grpc::RESOURCE_EXHAUSTED, "too slow");
    SendStep(writer, 3);
    SendSuccess(writer, 4);
    return grpc::Status::OK;
  };
  std::vector<int64_t> seen;
  int lost = 0;
  ASSERT_OK(JobClient(connection_)
                .Watch({.job_id = "job-1",
                        .on_event =
                            [&](const v1::JobEvent& event) {
                              seen.push_back(event.seq());
                              return absl::OkStatus();
                            },
                        .on_disconnect = [&](const absl::Status&) { ++lost; }}));
  EXPECT_THAT(asked, ElementsAre(0, 2, 2));
  EXPECT_THAT(seen, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(lost, 1);  // told once for one outage
}

TEST_F(ClientTest, AMissingEventIsDataLoss) {
  server_.jobs.watch = [](grpc::ServerContext*, const v1::WatchJobRequest&,
                          FakeJobs::Writer* writer) {
    SendStep(writer, 1);
    SendStep(writer, 3);
    return grpc::Status::OK;
  };
  EXPECT_THAT(JobClient(connection_)
                  .Watch({.job_id = "job-1",
                          .on_event = [](const v1::JobEvent&) { return absl::OkStatus(); }}),
              StatusIs(absl::StatusCode::kDataLoss, "event 3 where event 2"));
}

TEST_F(ClientTest, AWatchPastTheEndOfAFinishedJobEnds) {
  server_.jobs.watch = [](grpc::ServerContext*, const v1::WatchJobRequest&, FakeJobs::Writer*) {
    return grpc::Status::OK;
  };
  server_.jobs.get = [](const v1::GetJobRequest&, v1::Job* job) {
    job->set_state(v1::JOB_STATE_SUCCEEDED);
    job->set_last_seq(9);
    return grpc::Status::OK;
  };
  EXPECT_OK(JobClient(connection_).Watch({.job_id = "job-1", .after_seq = 9}));
}

TEST_F(ClientTest, AnUnknownJobIsNotWaitedFor) {
  server_.jobs.watch = [](grpc::ServerContext*, const v1::WatchJobRequest&, FakeJobs::Writer*) {
    return ServerError(grpc::NOT_FOUND, "job-9");
  };
  EXPECT_THAT(JobClient(connection_).Watch({.job_id = "job-9"}),
              StatusIs(absl::StatusCode::kNotFound, "job-9"));
}

TEST_F(ClientTest, CancelAllEndsAWatchAtOnce) {
  server_.jobs.watch = [](grpc::ServerContext* context, const v1::WatchJobRequest&,
                          FakeJobs::Writer* writer) {
    SendStep(writer, 1);
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    return grpc::Status::CANCELLED;
  };
  const absl::Status status =
      JobClient(connection_).Watch({.job_id = "job-1", .on_event = [&](const v1::JobEvent&) {
                                      std::thread([connection = connection_] {
                                        connection->CancelAll();
                                      }).detach();
                                      return absl::OkStatus();
                                    }});
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled, ""));
}

// --- adapter files ---

void SendFile(FakeAdapters::Writer* writer, const std::string& path, int64_t offset,
              const std::string& data) {
  v1::ExportAdapterResponse reply;
  reply.mutable_chunk()->set_path(path);
  reply.mutable_chunk()->set_offset(offset);
  reply.mutable_chunk()->set_data(data);
  writer->Write(reply);
}

TEST_F(ClientTest, ExportWritesTheWholeDirectory) {
  server_.adapters.export_adapter = [](const auto& request, FakeAdapters::Writer* writer) {
    v1::ExportAdapterResponse first;
    first.mutable_adapter()->set_ref(request.adapter());
    writer->Write(first);
    SendFile(writer, "adapter_config.json", 0, "{}");
    SendFile(writer, "adapter_model.safetensors", 0, "abc");
    SendFile(writer, "adapter_model.safetensors", 3, "def");
    return grpc::Status::OK;
  };
  const std::string target = dir_ + "/deep/out";
  ASSERT_OK(AdapterClient(connection_).Export("a@1", target));
  EXPECT_EQ(*ReadFile(target + "/adapter_config.json"), "{}");
  EXPECT_EQ(*ReadFile(target + "/adapter_model.safetensors"), "abcdef");
  EXPECT_THAT(AdapterClient(connection_).Export("a@1", target),
              StatusIs(absl::StatusCode::kAlreadyExists, target));
  std::filesystem::create_directories(dir_ + "/empty");
  EXPECT_OK(AdapterClient(connection_).Export("a@1", dir_ + "/empty/"));
}

TEST_F(ClientTest, AnExportThatBreaksLeavesNothing) {
  for (const std::string path : {"../escape", "/etc/x", ".hidden", ""}) {
    server_.adapters.export_adapter = [&](const auto&, FakeAdapters::Writer* writer) {
      v1::ExportAdapterResponse first;
      first.mutable_adapter()->set_ref("a@1");
      writer->Write(first);
      SendFile(writer, path, 0, "x");
      return grpc::Status::OK;
    };
    EXPECT_THAT(AdapterClient(connection_).Export("a@1", dir_ + "/out"),
                StatusIs(absl::StatusCode::kInvalidArgument, "a file named"));
  }
  server_.adapters.export_adapter = [](const auto&, FakeAdapters::Writer* writer) {
    v1::ExportAdapterResponse first;
    first.mutable_adapter()->set_ref("a@1");
    writer->Write(first);
    SendFile(writer, "adapter_config.json", 1, "x");
    return grpc::Status::OK;
  };
  EXPECT_THAT(AdapterClient(connection_).Export("a@1", dir_ + "/out"),
              StatusIs(absl::StatusCode::kDataLoss, "byte 1 came where byte 0"));
  EXPECT_TRUE(std::filesystem::is_empty(dir_));
}

TEST_F(ClientTest, ImportSendsBothFiles) {
  std::filesystem::create_directories(dir_ + "/peft");
  WriteTemp("peft/adapter_config.json", "{}");
  const std::string weights = Megabytes(2.5);
  WriteTemp("peft/adapter_model.safetensors", weights);
  std::map<std::string, std::string> files;
  server_.adapters.import_adapter = [&](FakeAdapters::Reader* reader,
                                        v1::ImportAdapterResponse* reply) {
    v1::ImportAdapterRequest request;
    reader->Read(&request);
    reply->mutable_adapter()->set_name(request.metadata().name());
    while (reader->Read(&request)) {
      std::string& file = files[request.chunk().path()];
      EXPECT_EQ(request.chunk().offset(), static_cast<int64_t>(file.size()));
      file += request.chunk().data();
    }
    return grpc::Status::OK;
  };
  ASSERT_OK_AND_ASSIGN(const auto reply, AdapterClient(connection_).Import("a", dir_ + "/peft"));
  EXPECT_EQ(reply.adapter().name(), "a");
  EXPECT_EQ(files["adapter_config.json"], "{}");
  EXPECT_EQ(files["adapter_model.safetensors"], weights);
}

TEST_F(ClientTest, ImportNamesTheFileThatIsMissing) {
  WriteTemp("adapter_config.json", "{}");
  EXPECT_THAT(AdapterClient(connection_).Import("a", dir_),
              StatusIs(absl::StatusCode::kNotFound, "adapter_model.safetensors is missing"));
}

}  // namespace
}  // namespace lorad::client
