// The daemon as a process: what its user sees of it, and what it keeps when it is killed.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "engine/io/sha256.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "lorad/v1/adapter_service.grpc.pb.h"
#include "lorad/v1/dataset_service.grpc.pb.h"
#include "lorad/v1/inference_service.grpc.pb.h"
#include "lorad/v1/job_service.grpc.pb.h"
#include "tests/support/temp_dir.h"

extern char** environ;

namespace lorad {
namespace {

using ::testing::HasSubstr;

constexpr char kData[] = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";

std::string Slurp(const std::string& path) {
  std::ifstream file(path);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

// lorad over the fake engine, as a child.
class Daemon {
 public:
  Daemon(const TempDir& dir, const std::vector<std::string>& flags) {
    out_ = dir.File("out");
    err_ = dir.File("err");
    std::vector<std::string> args = {LORAD_BIN_DIR "/fake_lorad"};
    args.insert(args.end(), flags.begin(), flags.end());
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const int flags_new = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&actions, 1, out_.c_str(), flags_new, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err_.c_str(), flags_new, 0600);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Daemon() {
    if (pid_ > 0) {
      Signal(SIGKILL);
      Wait();
    }
  }

  void Signal(int number) const { ::kill(pid_, number); }
  // The exit code, or minus the signal that ended it.
  int Wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  // The address after "grpc=" in the ready line; empty if it does not come.
  std::string AwaitReady() const {
    for (int i = 0; i < 2000; ++i) {
      const std::string line = Slurp(out_);
      if (line.find('\n') != std::string::npos) {
        EXPECT_THAT(line, ::testing::MatchesRegex(
                              "lorad ready grpc=[0-9.:]+ http=[0-9.:]+ model=fake device=cpu\n"));
        const size_t begin = line.find("grpc=") + 5;
        return line.substr(begin, line.find(' ', begin) - begin);
      }
      absl::SleepFor(absl::Milliseconds(5));
    }
    return "";
  }
  std::string Errors() const { return Slurp(err_); }

 private:
  std::string out_, err_;
  pid_t pid_ = 0;
};

class ProcessTest : public ::testing::Test {
 protected:
  std::vector<std::string> Flags() const {
    return {"--model=x", "--state_dir=" + dir_.File("state"), "--listen=127.0.0.1:0",
            "--http_listen=127.0.0.1:0", "--drain_timeout=5s"};
  }
  void Start() {
    daemon_ = std::make_unique<Daemon>(dir_, Flags());
    const std::string address = daemon_->AwaitReady();
    ASSERT_NE(address, "") << daemon_->Errors();
    channel_ = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  }
  void Upload() {
    v1::UploadDatasetResponse response;
    grpc::ClientContext context;
    const auto writer = v1::DatasetService::NewStub(channel_)->Upload(&context, &response);
    v1::UploadDatasetRequest request;
    request.mutable_metadata()->set_name("train");
    request.mutable_metadata()->set_size_bytes(sizeof(kData) - 1);
    request.mutable_metadata()->set_sha256(Sha256Hex(kData));
    writer->Write(request);
    request.mutable_chunk()->set_data(kData);
    writer->Write(request);
    writer->WritesDone();
    ASSERT_TRUE(writer->Finish().ok());
  }
  v1::Job Submit(const std::string& request_id, int steps) {
    v1::SubmitJobRequest request;
    request.set_request_id(request_id);
    request.mutable_spec()->set_name("sql");
    request.mutable_spec()->set_train_dataset("train");
    request.mutable_spec()->mutable_training()->set_max_steps(steps);
    request.mutable_spec()->mutable_training()->set_save_steps(5);
    v1::SubmitJobResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        v1::JobService::NewStub(channel_)->Submit(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job();
  }
  // Events after `after_seq`, until the end or `limit`.
  std::vector<v1::JobEvent> Watch(const std::string& job_id, int64_t after_seq, size_t limit) {
    v1::WatchJobRequest request;
    request.set_job_id(job_id);
    request.set_after_seq(after_seq);
    grpc::ClientContext context;
    const auto reader = v1::JobService::NewStub(channel_)->Watch(&context, request);
    std::vector<v1::JobEvent> events;
    v1::WatchJobResponse response;
    while (events.size() < limit && reader->Read(&response)) events.push_back(response.event());
    context.TryCancel();
    while (reader->Read(&response)) {
    }
    (void)reader->Finish();
    return events;
  }

  TempDir dir_;
  std::unique_ptr<Daemon> daemon_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(ProcessTest, SigtermEndsItGracefully) {
  Start();
  daemon_->Signal(SIGTERM);
  EXPECT_EQ(daemon_->Wait(), 0) << daemon_->Errors();
}

TEST_F(ProcessTest, ASecondSignalEndsItAtOnce) {
  ::setenv("LORAD_FAKE_TOKEN_US", "100000", 1);
  Start();
  ::unsetenv("LORAD_FAKE_TOKEN_US");
  v1::GenerateRequest request;
  request.set_prompt("x");
  grpc::ClientContext context;
  const auto reader = v1::InferenceService::NewStub(channel_)->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  daemon_->Signal(SIGTERM);
  absl::SleepFor(absl::Milliseconds(200));
  daemon_->Signal(SIGTERM);
  EXPECT_EQ(daemon_->Wait(), 128 + SIGTERM) << "the stream would have taken 5 s";
}

// What was acknowledged before a kill -9 is there after it, again and again; the job goes on from
// its last checkpoint and ends with the adapter of an uninterrupted run.
TEST_F(ProcessTest, AKilledDaemonLosesNothingThatItAcknowledged) {
  ::setenv("LORAD_FAKE_STEP_US", "3000", 1);
  Start();
  Upload();
  const v1::Job straight = Submit("straight", 60);
  Watch(straight.job_id(), 0, 1'000'000);
  const std::string job_id = Submit("killed", 60).job_id();
  std::vector<v1::JobEvent> seen;
  int kills = 0;
  for (; kills < 6; ++kills) {
    const auto part = Watch(job_id, seen.empty() ? 0 : seen.back().seq(), 8);
    seen.insert(seen.end(), part.begin(), part.end());
    if (!seen.empty() && seen.back().state_change().to() == v1::JOB_STATE_SUCCEEDED) break;
    daemon_->Signal(SIGKILL);
    EXPECT_EQ(daemon_->Wait(), -SIGKILL);
    Start();
    EXPECT_EQ(Submit("killed", 60).job_id(), job_id) << "the request id is remembered";
  }
  EXPECT_GE(kills, 3);
  const auto rest = Watch(job_id, seen.back().seq(), 1'000'000);
  seen.insert(seen.end(), rest.begin(), rest.end());
  EXPECT_EQ(seen.back().state_change().to(), v1::JOB_STATE_SUCCEEDED);
  const auto stored = Watch(job_id, 0, 1'000'000);
  ASSERT_EQ(stored.size(), seen.size());
  for (size_t i = 0; i < seen.size(); ++i) {
    ASSERT_EQ(stored[i].SerializeAsString(), seen[i].SerializeAsString()) << i;
    ASSERT_EQ(stored[i].seq(), static_cast<int64_t>(i) + 1);
  }
  const auto jobs = v1::JobService::NewStub(channel_);
  std::string sha256[2];
  for (int i = 0; i < 2; ++i) {
    v1::GetJobRequest request;
    request.set_job_id(i == 0 ? straight.job_id() : job_id);
    grpc::ClientContext context;
    v1::Job job;
    ASSERT_TRUE(jobs->Get(&context, request, &job).ok());
    sha256[i] = job.result().sha256();
    EXPECT_EQ(job.attempts(), i == 0 ? 1 : kills + 1);
  }
  EXPECT_EQ(sha256[0], sha256[1]);
  daemon_->Signal(SIGTERM);
  EXPECT_EQ(daemon_->Wait(), 0);
  ::unsetenv("LORAD_FAKE_STEP_US");
}

TEST_F(ProcessTest, BadSettingsAreNamedAndRefused) {
  const auto refused = [&](const std::string& flag, int code, const std::string& message) {
    const TempDir dir;
    std::vector<std::string> flags = Flags();
    flags.push_back(flag);
    Daemon daemon(dir, flags);
    EXPECT_EQ(daemon.Wait(), code) << flag;
    EXPECT_THAT(daemon.Errors(), HasSubstr(message)) << flag;
  };
  refused("--model=", 2, "--model=: is required");
  refused("--listen=nowhere", 2, "--listen=nowhere");
  refused("--max_batch_tokens=0", 2, "--max_batch_tokens=0: is not in 1..65536");
  refused("--config=/no/such/file", 2, "/no/such/file");
  refused("--no_such_flag=1", 1, "no_such_flag");
  refused("positional", 2, "\"positional\" is not a flag");
  EXPECT_FALSE(std::filesystem::exists(dir_.File("state"))) << "nothing was started";
}

TEST_F(ProcessTest, AStateDirectoryHasOneOwner) {
  Start();
  const TempDir dir;
  Daemon second(dir, Flags());
  EXPECT_EQ(second.Wait(), 2);
  EXPECT_THAT(second.Errors(), HasSubstr("is owned by process"));
}

TEST_F(ProcessTest, CheckPrintsTheMemoryPlan) {
  const TempDir dir;
  Daemon daemon(dir, {"--model=x", "--check"});
  EXPECT_EQ(daemon.Wait(), 0);
  const std::string out = Slurp(dir.File("out"));
  EXPECT_THAT(out, HasSubstr("total                     15 bytes"));
  EXPECT_THAT(out, ::testing::Not(HasSubstr("pinned")))
      << "the host's memory is no part of the plan";
}

}  // namespace
}  // namespace lorad
