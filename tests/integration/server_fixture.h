// The server in the test's own process, over the fake engine, reached through a real channel.
#ifndef LORAD_TESTS_INTEGRATION_SERVER_FIXTURE_H_
#define LORAD_TESTS_INTEGRATION_SERVER_FIXTURE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "lorad/v1/adapter_service.grpc.pb.h"
#include "lorad/v1/admin_service.grpc.pb.h"
#include "lorad/v1/dataset_service.grpc.pb.h"
#include "lorad/v1/inference_service.grpc.pb.h"
#include "lorad/v1/job_service.grpc.pb.h"
#include "server/app.h"
#include "tests/support/fake_engine.h"
#include "tests/support/temp_dir.h"

namespace lorad::server {

// A call's context with a deadline that no healthy test reaches.
std::unique_ptr<grpc::ClientContext> Context();

// The one ErrorInfo's reason in a status.
std::string Reason(const grpc::Status& status);

// When a status says to try again, if it does.
std::optional<absl::Duration> RetryDelay(const grpc::Status& status);

// What a Generate stream brought for one answer.
struct Answer {
  std::string text;
  std::vector<int32_t> ids;
  std::vector<std::string> adapters;  // distinct, in the order of their first message
  int messages = 0;
  v1::GenerateFinish finish;
  grpc::Status status;

  void Add(const v1::GenerateResponse& response);
};

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override { StartServer(); }
  void TearDown() override { script_->hold_training = false; }

  void StartServer();
  // The fake one, unless a test has another.
  virtual absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(const EngineConfig& config);
  // Ends gracefully, then starts again on the same state directory.
  void Restart() {
    app_.reset();
    StartServer();
  }

  grpc::Status Upload(const std::string& name, const std::string& content,
                      v1::UploadDatasetResponse* response = nullptr);
  grpc::Status Import(const std::string& name, const std::string& content,
                      v1::ImportAdapterResponse* response = nullptr);
  // Imports and returns "name@version".
  std::string ImportOk(const std::string& name, const std::string& content);
  grpc::Status Submit(const v1::SubmitJobRequest& request, v1::Job* job = nullptr);
  // Of a dataset that is uploaded if missing.
  v1::SubmitJobRequest JobRequest(const std::string& name);
  // All events after `after_seq` until the job has ended, or `limit` of them.
  std::vector<v1::JobEvent> Watch(const std::string& job_id, int64_t after_seq = 0,
                                  size_t limit = 1'000'000, grpc::Status* status = nullptr);
  Answer Generate(const v1::GenerateRequest& request);
  // By index; all bear the call's status.
  std::vector<Answer> GenerateSamples(const v1::GenerateRequest& request);
  // By request and index; the call's status is returned, each answer bears its request's.
  grpc::Status GenerateBatch(const v1::GenerateBatchRequest& request,
                             std::vector<std::vector<Answer>>& answers);
  static v1::GenerateRequest Prompt(const std::string& prompt, const std::string& adapter,
                                    int max_tokens);
  // What the fake answers.
  static std::string Expected(const std::string& prompt, const std::string& adapter_sha256,
                              int max_tokens);
  std::string HttpGet(const std::string& path, int* status = nullptr);
  // Waits until the metrics page has this line: what a call changes there may come after its
  // answer.
  bool AwaitMetric(const std::string& line);

  TempDir dir_;
  std::shared_ptr<FakeScript> script_ = std::make_shared<FakeScript>();
  ServerConfig config_;
  std::unique_ptr<App> app_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::DatasetService::Stub> datasets_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::AdapterService::Stub> adapters_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
};

#define ASSERT_GRPC_OK(expression)                                            \
  do {                                                                        \
    const grpc::Status grpc_status_ = (expression);                           \
    ASSERT_TRUE(grpc_status_.ok())                                            \
        << grpc_status_.error_code() << ": " << grpc_status_.error_message(); \
  } while (false)
#define EXPECT_GRPC(expression, code, substring)                                                  \
  do {                                                                                            \
    const grpc::Status grpc_status_ = (expression);                                               \
    EXPECT_EQ(grpc_status_.error_code(), grpc::StatusCode::code) << grpc_status_.error_message(); \
    EXPECT_NE(grpc_status_.error_message().find(substring), std::string::npos)                    \
        << grpc_status_.error_message();                                                          \
  } while (false)

}  // namespace lorad::server

#endif  // LORAD_TESTS_INTEGRATION_SERVER_FIXTURE_H_
