#include "tests/integration/server_fixture.h"

#include <httplib.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "engine/io/file.h"
#include "engine/io/sha256.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace lorad::server {

std::unique_ptr<grpc::ClientContext> Context() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return context;
}

std::string Reason(const grpc::Status& status) {
  google::rpc::Status proto;
  proto.ParseFromString(status.error_details());
  std::string reason;
  for (const auto& detail : proto.details()) {
    google::rpc::ErrorInfo info;
    if (detail.UnpackTo(&info)) reason += info.reason();
  }
  return reason;
}

std::optional<absl::Duration> RetryDelay(const grpc::Status& status) {
  google::rpc::Status proto;
  proto.ParseFromString(status.error_details());
  for (const auto& detail : proto.details()) {
    google::rpc::RetryInfo info;
    if (!detail.UnpackTo(&info)) continue;
    return absl::Seconds(info.retry_delay().seconds()) +
           absl::Nanoseconds(info.retry_delay().nanos());
  }
  return std::nullopt;
}

void ServerTest::StartServer() {
  config_.state_dir = dir_.File("state");
  config_.listen = "127.0.0.1:0";
  config_.http_listen = "127.0.0.1:0";
  config_.drain_timeout = absl::Seconds(10);
  absl::StatusOr<std::unique_ptr<App>> app =
      App::Start(config_, [this](const EngineConfig& config) { return MakeEngine(config); });
  ASSERT_TRUE(app.ok()) << app.status();
  app_ = *std::move(app);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // no connection of an earlier server
  channel_ = grpc::CreateCustomChannel(app_->grpc_address(), grpc::InsecureChannelCredentials(),
                                       arguments);
  datasets_ = v1::DatasetService::NewStub(channel_);
  jobs_ = v1::JobService::NewStub(channel_);
  adapters_ = v1::AdapterService::NewStub(channel_);
  inference_ = v1::InferenceService::NewStub(channel_);
  admin_ = v1::AdminService::NewStub(channel_);
}

grpc::Status ServerTest::Upload(const std::string& name, const std::string& content,
                                v1::UploadDatasetResponse* response) {
  v1::UploadDatasetResponse ignored;
  const auto context = Context();
  const auto writer = datasets_->Upload(context.get(), response != nullptr ? response : &ignored);
  v1::UploadDatasetRequest request;
  request.mutable_metadata()->set_name(name);
  request.mutable_metadata()->set_size_bytes(static_cast<int64_t>(content.size()));
  request.mutable_metadata()->set_sha256(Sha256Hex(content));
  writer->Write(request);
  constexpr size_t kChunk = 16;  // small, so that there are several
  for (size_t offset = 0; offset < content.size(); offset += kChunk) {
    request.mutable_chunk()->set_offset(static_cast<int64_t>(offset));
    request.mutable_chunk()->set_data(content.substr(offset, kChunk));
    if (!writer->Write(request)) break;
  }
  writer->WritesDone();
  return writer->Finish();
}

grpc::Status ServerTest::Import(const std::string& name, const std::string& content,
                                v1::ImportAdapterResponse* response) {
  const TempDir peft;
  WriteFakeAdapter(peft.path(), content);
  v1::ImportAdapterResponse ignored;
  const auto context = Context();
  const auto writer = adapters_->Import(context.get(), response != nullptr ? response : &ignored);
  v1::ImportAdapterRequest request;
  request.mutable_metadata()->set_name(name);
  writer->Write(request);
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    const std::string bytes = ReadFile(peft.File(file)).value();
    for (size_t offset = 0; offset < bytes.size(); offset += 5) {
      request.mutable_chunk()->set_path(file);
      request.mutable_chunk()->set_offset(static_cast<int64_t>(offset));
      request.mutable_chunk()->set_data(bytes.substr(offset, 5));
      if (!writer->Write(request)) break;
    }
  }
  writer->WritesDone();
  return writer->Finish();
}

std::string ServerTest::ImportOk(const std::string& name, const std::string& content) {
  v1::ImportAdapterResponse response;
  const grpc::Status status = Import(name, content, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.adapter().ref();
}

grpc::Status ServerTest::Submit(const v1::SubmitJobRequest& request, v1::Job* job) {
  v1::SubmitJobResponse response;
  const auto context = Context();
  grpc::Status status = jobs_->Submit(context.get(), request, &response);
  if (job != nullptr) *job = response.job();
  return status;
}

v1::SubmitJobRequest ServerTest::JobRequest(const std::string& name) {
  const grpc::Status status = Upload("train", "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
  EXPECT_TRUE(status.ok()) << status.error_message();
  v1::SubmitJobRequest request;
  request.mutable_spec()->set_name(name);
  request.mutable_spec()->set_train_dataset("train");
  return request;
}

std::vector<v1::JobEvent> ServerTest::Watch(const std::string& job_id, int64_t after_seq,
                                            size_t limit, grpc::Status* status) {
  v1::WatchJobRequest request;
  request.set_job_id(job_id);
  request.set_after_seq(after_seq);
  const auto context = Context();
  const auto reader = jobs_->Watch(context.get(), request);
  std::vector<v1::JobEvent> events;
  v1::WatchJobResponse response;
  while (events.size() < limit && reader->Read(&response)) events.push_back(response.event());
  if (events.size() == limit) context->TryCancel();
  while (reader->Read(&response)) {
  }
  const grpc::Status end = reader->Finish();
  if (status != nullptr) *status = end;
  return events;
}

absl::StatusOr<std::unique_ptr<Engine>> ServerTest::MakeEngine(const EngineConfig& config) {
  return std::make_unique<FakeEngine>(config, script_);
}

void Answer::Add(const v1::GenerateResponse& response) {
  EXPECT_EQ(finish.finish_reason(), v1::FINISH_REASON_UNSPECIFIED) << "more after the finish";
  messages += 1;
  text += response.text();
  ids.insert(ids.end(), response.ids().begin(), response.ids().end());
  if (std::find(adapters.begin(), adapters.end(), response.adapter()) == adapters.end()) {
    adapters.push_back(response.adapter());
  }
  if (response.has_finish()) finish = response.finish();
}

Answer ServerTest::Generate(const v1::GenerateRequest& request) {
  return GenerateSamples(request)[0];
}

std::vector<Answer> ServerTest::GenerateSamples(const v1::GenerateRequest& request) {
  std::vector<Answer> answers(static_cast<size_t>(std::max(1, request.n())));
  const auto context = Context();
  const auto reader = inference_->Generate(context.get(), request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) answers.at(response.index()).Add(response);
  const grpc::Status status = reader->Finish();
  for (Answer& answer : answers) answer.status = status;
  return answers;
}

grpc::Status ServerTest::GenerateBatch(const v1::GenerateBatchRequest& request,
                                       std::vector<std::vector<Answer>>& answers) {
  answers.clear();
  for (const v1::GenerateRequest& each : request.requests()) {
    answers.emplace_back(static_cast<size_t>(std::clamp(each.n(), 1, 16)));
  }
  const auto context = Context();
  const auto reader = inference_->GenerateBatch(context.get(), request);
  v1::GenerateBatchResponse message;
  while (reader->Read(&message)) {
    std::vector<Answer>& mine = answers.at(message.request_index());
    EXPECT_TRUE(mine[0].status.ok()) << "more after the error";
    if (message.has_response()) mine.at(message.response().index()).Add(message.response());
    if (!message.has_error()) continue;
    const grpc::Status error(static_cast<grpc::StatusCode>(message.error().code()),
                             message.error().message(), message.error().SerializeAsString());
    for (Answer& answer : mine) answer.status = error;
  }
  return reader->Finish();
}

v1::GenerateRequest ServerTest::Prompt(const std::string& prompt, const std::string& adapter,
                                       int max_tokens) {
  v1::GenerateRequest request;
  request.set_prompt(prompt);
  request.set_adapter(adapter);
  request.set_max_tokens(max_tokens);
  return request;
}

std::string ServerTest::Expected(const std::string& prompt, const std::string& adapter_sha256,
                                 int max_tokens) {
  const std::vector<int32_t> ids(prompt.begin(), prompt.end());  // the tokenizer's ids are bytes
  std::string text;
  for (int i = 0; i < max_tokens; ++i) {
    text.push_back(static_cast<char>(FakeToken(adapter_sha256, ids, i)));
  }
  return text;
}

bool ServerTest::AwaitMetric(const std::string& line) {
  for (int i = 0; i < 500; ++i) {
    if (HttpGet("/metrics").find(line + "\n") != std::string::npos) return true;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return false;
}

std::string ServerTest::HttpGet(const std::string& path, int* status) {
  httplib::Client client("http://" + app_->http_address());
  const httplib::Result result = client.Get(path.c_str());
  if (!result) return "no answer";
  if (status != nullptr) *status = result->status;
  return result->body;
}

}  // namespace lorad::server
