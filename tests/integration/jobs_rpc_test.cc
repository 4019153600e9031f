// JobService, DatasetService, AdminService, health, HTTP, drain and restart over a channel.
#include <future>
#include <thread>

#include "absl/time/clock.h"
#include "engine/io/sha256.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "tests/integration/server_fixture.h"

namespace lorad::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(ServerTest, AJobIsSubmittedWatchedAndServed) {
  v1::Job job;
  ASSERT_GRPC_OK(Submit(JobRequest("sql"), &job));
  EXPECT_EQ(job.state(), v1::JOB_STATE_QUEUED);
  grpc::Status status;
  const std::vector<v1::JobEvent> events = Watch(job.job_id(), 0, 1'000'000, &status);
  ASSERT_GRPC_OK(status);
  ASSERT_FALSE(events.empty());
  for (size_t i = 0; i < events.size(); ++i)
    EXPECT_EQ(events[i].seq(), static_cast<int64_t>(i) + 1);
  EXPECT_EQ(events.back().state_change().to(), v1::JOB_STATE_SUCCEEDED);
  v1::GetJobRequest get;
  get.set_job_id(job.job_id());
  ASSERT_GRPC_OK(jobs_->Get(Context().get(), get, &job));
  const Answer answer = Generate(Prompt("q", "sql", 8));
  ASSERT_GRPC_OK(answer.status);
  EXPECT_THAT(answer.adapters, ElementsAre(job.result().adapter()));
  EXPECT_EQ(answer.text, Expected("q", job.result().sha256(), 8));
}

TEST_F(ServerTest, OptimReachesTheJob) {
  v1::SubmitJobRequest request = JobRequest("sql");
  v1::TrainingSpec& training = *request.mutable_spec()->mutable_training();
  request.set_validate_only(true);
  v1::Job job;
  ASSERT_GRPC_OK(Submit(request, &job));
  EXPECT_EQ(job.spec().training().optim(), "adamw_torch");
  EXPECT_EQ(job.plan().pinned_bytes(), 0);
  training.set_optim("paged_adamw_8bit");
  ASSERT_GRPC_OK(Submit(request, &job));
  EXPECT_EQ(job.spec().training().optim(), "paged_adamw_8bit");
  EXPECT_GT(job.plan().pinned_bytes(), 0) << "the engine's plan is not of that optim";
  training.set_optim("sgd");
  EXPECT_GRPC(Submit(request), INVALID_ARGUMENT, "spec.training.optim: \"sgd\" is none of");
  request.set_validate_only(false);
  training.set_optim("paged_adamw_32bit");
  ASSERT_GRPC_OK(Submit(request, &job));
  EXPECT_GT(job.plan().pinned_bytes(), 0);
  EXPECT_EQ(Watch(job.job_id()).back().state_change().to(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(ServerTest, AWatchContinuesWhereItBroke) {
  script_->step_delay_us = 2000;
  v1::Job job;
  v1::SubmitJobRequest request = JobRequest("sql");
  request.mutable_spec()->mutable_training()->set_max_steps(30);
  ASSERT_GRPC_OK(Submit(request, &job));
  std::vector<v1::JobEvent> events;
  // Breaks off every seven events.
  while (events.empty() || events.back().state_change().to() != v1::JOB_STATE_SUCCEEDED) {
    const auto part = Watch(job.job_id(), events.empty() ? 0 : events.back().seq(), 7);
    ASSERT_FALSE(part.empty());
    events.insert(events.end(), part.begin(), part.end());
  }
  const std::vector<v1::JobEvent> whole = Watch(job.job_id());
  ASSERT_EQ(events.size(), whole.size());
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_EQ(events[i].SerializeAsString(), whole[i].SerializeAsString());
  }
  EXPECT_TRUE(Watch(job.job_id(), whole.back().seq()).empty()) << "nothing comes after the end";
}

TEST_F(ServerTest, WatchRefusesWhatIsWrong) {
  grpc::Status status;
  Watch("job-99", 0, 1, &status);
  EXPECT_GRPC(status, NOT_FOUND, "job-99");
  v1::Job job;
  ASSERT_GRPC_OK(Submit(JobRequest("sql"), &job));
  Watch(job.job_id(), -1, 1, &status);
  EXPECT_GRPC(status, INVALID_ARGUMENT, "after_seq: -1");
}

TEST_F(ServerTest, ARetriedSubmitIsTheSameJobAlsoAfterARestart) {
  script_->hold_training = true;
  v1::SubmitJobRequest request = JobRequest("sql");
  request.set_request_id("5b1c");
  v1::Job first, again;
  ASSERT_GRPC_OK(Submit(request, &first));
  ASSERT_GRPC_OK(Submit(request, &again));
  EXPECT_EQ(first.job_id(), again.job_id());
  Restart();
  ASSERT_GRPC_OK(Submit(request, &again));
  EXPECT_EQ(first.job_id(), again.job_id());
  request.mutable_spec()->set_name("other");
  const grpc::Status status = Submit(request);
  EXPECT_GRPC(status, ALREADY_EXISTS, first.job_id());
}

TEST_F(ServerTest, ADrainCheckpointsTheJobAndARestartEndsItTheSame) {
  v1::SubmitJobRequest request = JobRequest("sql");
  request.mutable_spec()->mutable_training()->set_max_steps(50);
  v1::Job straight;
  ASSERT_GRPC_OK(Submit(request, &straight));
  Watch(straight.job_id());
  script_->step_delay_us = 5000;
  v1::Job interrupted;
  ASSERT_GRPC_OK(Submit(request, &interrupted));
  ASSERT_EQ(Watch(interrupted.job_id(), 0, 10).size(), 10u);
  Restart();
  script_->step_delay_us = 0;
  const std::vector<v1::JobEvent> events = Watch(interrupted.job_id());
  EXPECT_EQ(events.back().state_change().to(), v1::JOB_STATE_SUCCEEDED);
  v1::GetJobRequest get;
  get.set_job_id(straight.job_id());
  ASSERT_GRPC_OK(jobs_->Get(Context().get(), get, &straight));
  get.set_job_id(interrupted.job_id());
  ASSERT_GRPC_OK(jobs_->Get(Context().get(), get, &interrupted));
  EXPECT_EQ(interrupted.attempts(), 2);
  EXPECT_EQ(interrupted.result().sha256(), straight.result().sha256());
}

TEST_F(ServerTest, CancelEndsARunningJob) {
  script_->hold_training = true;
  v1::Job job;
  ASSERT_GRPC_OK(Submit(JobRequest("sql"), &job));
  v1::CancelJobRequest cancel;
  cancel.set_job_id(job.job_id());
  ASSERT_GRPC_OK(jobs_->Cancel(Context().get(), cancel, &job));
  const auto events = Watch(job.job_id());
  EXPECT_EQ(events.back().state_change().to(), v1::JOB_STATE_CANCELLED);
  EXPECT_GRPC(Generate(Prompt("x", "sql", 1)).status, NOT_FOUND, "sql");
}

TEST_F(ServerTest, DatasetsAreUploadedListedAndKeptWhileInUse) {
  v1::UploadDatasetResponse uploaded;
  ASSERT_GRPC_OK(Upload("d", "{\"text\": \"hello\"}\n{\"text\": \"bye\"}\n", &uploaded));
  EXPECT_EQ(uploaded.dataset().report().samples(), 2);
  EXPECT_EQ(uploaded.dataset().report().kind(), v1::DATASET_KIND_TEXT);
  const grpc::Status bad = Upload("bad", "{\"text\": \"hello\"}\n{broken\n");
  EXPECT_GRPC(bad, INVALID_ARGUMENT, "line 2");
  EXPECT_EQ(Reason(bad), "DATASET_INVALID");
  v1::ValidateDatasetRequest validate;
  validate.set_name("d");
  validate.set_max_seq_length(1);
  v1::ValidateDatasetResponse report;
  EXPECT_GRPC(datasets_->Validate(Context().get(), validate, &report), INVALID_ARGUMENT, "2..512");
  validate.set_max_seq_length(0);
  ASSERT_GRPC_OK(datasets_->Validate(Context().get(), validate, &report));
  EXPECT_EQ(report.report().samples(), 2);
  script_->hold_training = true;
  v1::Job job;
  ASSERT_GRPC_OK(Submit(JobRequest("sql"), &job));
  v1::DeleteDatasetRequest remove;
  remove.set_name("train");
  v1::DeleteDatasetResponse removed;
  EXPECT_GRPC(datasets_->Delete(Context().get(), remove, &removed), FAILED_PRECONDITION,
              job.job_id());
  remove.set_name("d");
  ASSERT_GRPC_OK(datasets_->Delete(Context().get(), remove, &removed));
  v1::ListDatasetsResponse list;
  ASSERT_GRPC_OK(datasets_->List(Context().get(), {}, &list));
  ASSERT_EQ(list.datasets_size(), 1);
  EXPECT_EQ(list.datasets(0).name(), "train");
}

TEST_F(ServerTest, AnUploadWithoutMetadataIsRefused) {
  v1::UploadDatasetResponse response;
  const auto context = Context();
  const auto writer = datasets_->Upload(context.get(), &response);
  v1::UploadDatasetRequest request;
  request.mutable_chunk()->set_data("x");
  writer->Write(request);
  writer->WritesDone();
  EXPECT_GRPC(writer->Finish(), INVALID_ARGUMENT, "metadata");
  const auto second = Context();
  const auto empty = datasets_->Upload(second.get(), &response);
  empty->WritesDone();
  EXPECT_GRPC(empty->Finish(), INVALID_ARGUMENT, "stream was empty");
}

TEST_F(ServerTest, ServerInfoTellsTheItlTarget) {
  v1::ServerInfo info;
  ASSERT_GRPC_OK(admin_->GetServerInfo(Context().get(), {}, &info));
  EXPECT_FALSE(info.limits().has_itl_target());
  config_.engine.itl_target_ms = 1012.5;
  Restart();
  ASSERT_GRPC_OK(admin_->GetServerInfo(Context().get(), {}, &info));
  EXPECT_EQ(info.limits().itl_target().seconds(), 1);
  EXPECT_EQ(info.limits().itl_target().nanos(), 12'500'000);
}

TEST_F(ServerTest, ServerInfoAndStats) {
  v1::ServerInfo info;
  ASSERT_GRPC_OK(admin_->GetServerInfo(Context().get(), {}, &info));
  EXPECT_EQ(info.grpc_address(), app_->grpc_address());
  EXPECT_EQ(info.http_address(), app_->http_address());
  EXPECT_EQ(info.model().context_tokens(), 512);
  EXPECT_EQ(info.limits().max_queued_jobs(), 64);
  ASSERT_GRPC_OK(Generate(Prompt("hello", "", 10)).status);
  v1::StreamStatsRequest request;
  request.mutable_interval()->set_nanos(100'000'000);
  const auto context = Context();
  const auto reader = admin_->StreamStats(context.get(), request);
  v1::ServerStats stats;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(reader->Read(&stats));
  EXPECT_EQ(stats.generated_tokens_total(), 10);
  EXPECT_EQ(stats.memory_size(), kNumMemoryTags);
  context->TryCancel();
  while (reader->Read(&stats)) {
  }
  EXPECT_GRPC(reader->Finish(), CANCELLED, "");
  request.mutable_interval()->set_nanos(1);
  const auto second = Context();
  const auto refused = admin_->StreamStats(second.get(), request);
  EXPECT_FALSE(refused->Read(&stats));
  EXPECT_GRPC(refused->Finish(), INVALID_ARGUMENT, "interval");
}

TEST_F(ServerTest, HealthTellsServingThenDraining) {
  const auto health = grpc::health::v1::Health::NewStub(channel_);
  grpc::health::v1::HealthCheckRequest request;
  grpc::health::v1::HealthCheckResponse response;
  for (const std::string& service : {std::string(), std::string("lorad.v1.InferenceService")}) {
    request.set_service(service);
    ASSERT_GRPC_OK(health->Check(Context().get(), request, &response));
    EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  }
  request.set_service("none");
  EXPECT_GRPC(health->Check(Context().get(), request, &response), NOT_FOUND, "");
  request.set_service("");
  const auto context = Context();
  const auto watch = health->Watch(context.get(), request);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  std::thread drain([this] { app_->Drain(); });
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  while (watch->Read(&response)) {
  }
  drain.join();
}

TEST_F(ServerTest, ADrainLetsRequestsInFlightFinishAndRefusesNewOnes) {
  script_->token_delay_us = 5000;
  auto running = std::async(std::launch::async, [this] { return Generate(Prompt("q", "", 60)); });
  ASSERT_TRUE(AwaitMetric("lorad_inference_running_requests 1"));
  std::thread drain([this] { app_->Drain(); });
  int status = 200;
  while (HttpGet("/readyz", &status) == "ok\n") absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(status, 503);
  const Answer refused = Generate(Prompt("q", "", 1));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  const Answer finished = running.get();
  ASSERT_GRPC_OK(finished.status);
  EXPECT_EQ(finished.text, Expected("q", "", 60));
  drain.join();
}

TEST_F(ServerTest, HttpServesItsThreePagesAndNoMore) {
  int status = 0;
  EXPECT_EQ(HttpGet("/healthz", &status), "ok\n");
  EXPECT_EQ(status, 200);
  EXPECT_EQ(HttpGet("/readyz", &status), "ok\n");
  EXPECT_EQ(status, 200);
  ASSERT_GRPC_OK(Generate(Prompt("x", "", 5)).status);
  EXPECT_GRPC(Generate(Prompt("x", "none", 5)).status, NOT_FOUND, "none");
  EXPECT_TRUE(
      AwaitMetric("lorad_grpc_requests_total{code=\"NOT_FOUND\",method=\"Generate\","
                  "service=\"lorad.v1.InferenceService\"} 1"));
  EXPECT_TRUE(AwaitMetric("lorad_ready{service=\"lorad.v1.JobService\"} 1"));
  const std::string page = HttpGet("/metrics", &status);
  EXPECT_EQ(status, 200);
  for (const char* name : {"\nlorad_model_info{", "\nlorad_db_transaction_seconds_count "}) {
    EXPECT_NE(page.find(name), std::string::npos) << name;
  }
  HttpGet("/etc/passwd", &status);
  EXPECT_EQ(status, 404);
}

TEST_F(ServerTest, ReflectionListsTheServices) {
  grpc::GenericStub stub(channel_);
  // ServerReflectionRequest{list_services: "*"}: field 7, length-delimited.
  const grpc::Slice slice("\x3a\x01*", 3);
  const grpc::ByteBuffer request(&slice, 1);
  const auto context = Context();
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(
      context.get(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  void* tag = nullptr;
  bool ok = false;
  grpc::ByteBuffer response;
  call->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  call->Write(request, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  call->Read(&response, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::Slice bytes;
  ASSERT_TRUE(response.DumpToSingleSlice(&bytes).ok());
  const std::string text(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
  for (const char* service : {"lorad.v1.JobService", "lorad.v1.InferenceService",
                              "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"}) {
    EXPECT_THAT(text, HasSubstr(service));
  }
  context->TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok));
}

TEST_F(ServerTest, OneDaemonPerStateDirectoryAndPort) {
  const auto start = [](const ServerConfig& config) {
    return App::Start(config, [](const EngineConfig& engine) {
      return absl::StatusOr<std::unique_ptr<Engine>>(std::make_unique<FakeEngine>(engine));
    });
  };
  EXPECT_THAT(start(config_).status().ToString(), HasSubstr("is owned by process"));
  ServerConfig other = config_;
  const TempDir elsewhere;
  other.state_dir = elsewhere.File("state");
  other.listen = app_->grpc_address();
  EXPECT_THAT(start(other).status().ToString(), HasSubstr("--listen: cannot listen on"));
  other.listen = "127.0.0.1:0";
  other.http_listen = app_->http_address();
  EXPECT_THAT(start(other).status().ToString(), HasSubstr("--http_listen: cannot listen on"));
  EXPECT_FALSE(std::filesystem::exists(other.state_dir)) << "nothing was started";
}

}  // namespace
}  // namespace lorad::server
