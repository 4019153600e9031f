// Whole command lines against a fake server: the forms that scripts rely on, exit codes, messages.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "client/cli/run.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/client/fake_server.h"

namespace lorad::client::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LoractlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = absl::StrCat(::testing::TempDir(), "loractl_", getpid());
    std::filesystem::create_directories(dir_);
    unsetenv("LORAD_SERVER");
    unsetenv("LORAD_TOKEN");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  // Runs it against the fake server; out_ and err_ have what it wrote.
  int Run(std::vector<std::string> words) {
    words.push_back("--server=" + server_.address());
    return RunRaw(words);
  }
  int RunRaw(const std::vector<std::string>& words) {
    std::ostringstream out, err;
    const int code = RunCommandLine(words, {.out = out, .err = err});
    out_ = out.str();
    err_ = err.str();
    return code;
  }
  std::vector<nlohmann::json> JsonLines() const {
    std::vector<nlohmann::json> lines;
    for (const absl::string_view line : absl::StrSplit(out_, '\n', absl::SkipEmpty())) {
      lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }
  std::string WriteTemp(const std::string& name, const std::string& content) {
    const std::string path = absl::StrCat(dir_, "/", name);
    std::ofstream(path) << content;
    return path;
  }

  FakeServer server_;
  std::string dir_, out_, err_;
};

// Answers with the prompt's ids reversed and the adapter's name as text.
v1::GenerateResponse EchoOf(const v1::GenerateRequest& request) {
  v1::GenerateResponse reply;
  reply.set_adapter(request.adapter());
  reply.set_text(absl::StrCat(request.adapter(), ":", request.prompt()));
  for (int i = request.prompt_ids().ids_size(); i-- > 0;)
    reply.add_ids(request.prompt_ids().ids(i));
  reply.mutable_finish()->set_finish_reason(request.max_tokens() == 1 ? v1::FINISH_REASON_LENGTH
                                                                      : v1::FINISH_REASON_STOP);
  return reply;
}

grpc::Status Echo(grpc::ServerContext*, const v1::GenerateRequest& request,
                  FakeInference::Writer* writer) {
  v1::GenerateResponse reply = EchoOf(request);
  for (int i = std::max(1, request.n()); i-- > 0;) {  // the order of indexes is not promised
    reply.set_index(i);
    writer->Write(reply);
  }
  return grpc::Status::OK;
}

// Answers the last request first.
grpc::Status EchoBatch(const v1::GenerateBatchRequest& request,
                       FakeInference::BatchWriter* writer) {
  for (int i = request.requests_size(); i-- > 0;) {
    v1::GenerateBatchResponse message;
    message.set_request_index(i);
    *message.mutable_response() = EchoOf(request.requests(i));
    for (int sample = 0; sample < std::max(1, request.requests(i).n()); ++sample) {
      message.mutable_response()->set_index(sample);
      writer->Write(message);
    }
  }
  return grpc::Status::OK;
}

TEST_F(LoractlTest, GeneratePrintsIdsTextAndFinishReason) {
  server_.inference.generate = Echo;
  ASSERT_EQ(Run({"generate", "--ids=[1,2,3]", "--max_tokens=1", "--output=json"}), 0) << err_;
  EXPECT_EQ(out_, "{\"ids\":[3,2,1],\"text\":\":\",\"finish_reason\":\"length\"}\n");
  ASSERT_EQ(Run({"generate", "--prompt=hi", "--adapter=a", "--output=json"}), 0) << err_;
  EXPECT_EQ(out_, "{\"ids\":[],\"text\":\"a:hi\",\"finish_reason\":\"stop\"}\n");
}

TEST_F(LoractlTest, GenerateSendsEveryParameter) {
  v1::GenerateRequest seen;
  server_.inference.generate = [&](grpc::ServerContext* context, const v1::GenerateRequest& request,
                                   FakeInference::Writer* writer) {
    seen = request;
    return Echo(context, request, writer);
  };
  ASSERT_EQ(Run({"generate", "--prompt=p", "--temperature=0", "--max_tokens=9", "--top_k=3",
                 "--top_p=0.5", "--min_p=0.1", "--repetition_penalty=1.1", "--presence_penalty=0.2",
                 "--frequency_penalty=0.3", "--seed=0", "--n=1", "--stop=x", "--stop=y",
                 "--stop_ids=[7,8]", "--ignore_eos=true", "--logprobs=0",
                 "--add_special_tokens=false", "--priority=-7"}),
            0)
      << err_;
  EXPECT_TRUE(seen.has_temperature());
  EXPECT_EQ(seen.temperature(), 0);
  EXPECT_EQ(seen.max_tokens(), 9);
  EXPECT_EQ(seen.top_k(), 3);
  EXPECT_EQ(seen.top_p(), 0.5);
  EXPECT_EQ(seen.min_p(), 0.1);
  EXPECT_EQ(seen.repetition_penalty(), 1.1);
  EXPECT_EQ(seen.presence_penalty(), 0.2);
  EXPECT_EQ(seen.frequency_penalty(), 0.3);
  EXPECT_EQ(seen.priority(), -7);
  EXPECT_TRUE(seen.has_seed());
  EXPECT_EQ(seen.n(), 1);
  EXPECT_THAT(seen.stop(), ElementsAre("x", "y"));
  EXPECT_THAT(seen.stop_ids(), ElementsAre(7, 8));
  EXPECT_TRUE(seen.ignore_eos());
  EXPECT_TRUE(seen.has_logprobs());
  EXPECT_FALSE(seen.add_special_tokens());
  // What was not given is not sent, so that the server's defaults hold.
  // Not 0 or 1, to which their lower halves would cut them.
  constexpr int32_t kLargest = std::numeric_limits<int32_t>::max();
  ASSERT_EQ(Run({"generate", "--prompt=p", "--priority=4294967296", "--max_tokens=4294967297",
                 "--top_k=4294967297", "--logprobs=4294967296"}),
            0);
  EXPECT_EQ(seen.priority(), kLargest);
  EXPECT_EQ(seen.max_tokens(), kLargest);
  EXPECT_EQ(seen.top_k(), kLargest);
  EXPECT_EQ(seen.logprobs(), kLargest);
  ASSERT_EQ(Run({"generate", "--prompt=p"}), 0);
  EXPECT_EQ(seen.priority(), 0);
  EXPECT_FALSE(seen.has_temperature() || seen.has_top_p() || seen.has_seed() ||
               seen.has_logprobs() || seen.has_add_special_tokens() ||
               seen.has_repetition_penalty());
}

TEST_F(LoractlTest, TooManyAnswersAreNotCutToOne) {
  server_.inference.generate = [](grpc::ServerContext*, const v1::GenerateRequest& request,
                                  FakeInference::Writer*) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, absl::StrCat("n is ", request.n()));
  };
  EXPECT_NE(Run({"generate", "--prompt=p", "--n=4294967297", "--output=json"}), 0);
  EXPECT_THAT(err_, HasSubstr("n is 2147483647"));
}

TEST_F(LoractlTest, SeveralAnswersSayWhichOneTheyAre) {
  server_.inference.generate = Echo;
  ASSERT_EQ(Run({"generate", "--ids=[1,2]", "--n=2", "--output=json"}), 0) << err_;
  EXPECT_EQ(out_,
            "{\"index\":0,\"ids\":[2,1],\"text\":\":\",\"finish_reason\":\"stop\"}\n"
            "{\"index\":1,\"ids\":[2,1],\"text\":\":\",\"finish_reason\":\"stop\"}\n");
  ASSERT_EQ(Run({"generate", "--prompt=hi", "--n=2"}), 0) << err_;
  EXPECT_EQ(out_, ":hi\n:hi\n");
  server_.inference.generate_batch = EchoBatch;
  const std::string path = WriteTemp("n.jsonl", "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n");
  ASSERT_EQ(Run({"generate", "--jsonl", path, "--n=2", "--output=json"}), 0) << err_;
  const auto lines = JsonLines();
  ASSERT_EQ(lines.size(), 4u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(lines[i]["index"], i % 2);
    EXPECT_EQ(lines[i]["text"], i < 2 ? ":a" : ":b");
  }
}

TEST_F(LoractlTest, GenerateSendsConstraints) {
  std::vector<v1::GenerateRequest> seen;
  absl::Mutex mu;
  server_.inference.generate = [&](grpc::ServerContext* context, const v1::GenerateRequest& request,
                                   FakeInference::Writer* writer) {
    absl::MutexLock lock(&mu);
    seen.push_back(request);
    return Echo(context, request, writer);
  };
  ASSERT_EQ(Run({"generate", "--prompt=p", "--regex=a|b"}), 0) << err_;
  ASSERT_EQ(Run({"generate", "--prompt=p", "--json_schema={\"type\": \"null\"}"}), 0) << err_;
  const std::string schema = WriteTemp("schema.json", "{\"type\": \"array\"}\n");
  ASSERT_EQ(Run({"generate", "--prompt=p", "--json_schema", schema}), 0) << err_;
  ASSERT_EQ(Run({"generate", "--prompt=p", "--json_object"}), 0) << err_;
  ASSERT_EQ(seen.size(), 4u);
  EXPECT_EQ(seen[0].regex(), "a|b");
  EXPECT_EQ(seen[1].json_schema(), "{\"type\": \"null\"}");
  EXPECT_EQ(seen[2].json_schema(), "{\"type\": \"array\"}\n");
  EXPECT_TRUE(seen[3].json_object());
  EXPECT_EQ(Run({"generate", "--prompt=p", "--json_object", "--regex=a"}), 2);
  EXPECT_EQ(Run({"generate", "--prompt=p", "--json_schema=/no/such/file"}), 3);
  EXPECT_EQ(seen.size(), 4u) << "nothing was sent";
}

TEST_F(LoractlTest, LinesHaveTheirOwnConstraints) {
  std::map<std::string, v1::GenerateRequest> seen;
  absl::Mutex mu;
  server_.inference.generate_batch = [&](const v1::GenerateBatchRequest& request,
                                         FakeInference::BatchWriter* writer) {
    absl::MutexLock lock(&mu);
    for (const v1::GenerateRequest& each : request.requests()) seen[each.prompt()] = each;
    return EchoBatch(request, writer);
  };
  const std::string path = WriteTemp("prompts.jsonl",
                                     "{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"regex\":\"x+\"}\n"
                                     "{\"prompt\":\"c\",\"json_schema\":{\"type\":\"object\","
                                     "\"properties\":{\"z\":{},\"a\":{}}}}\n"
                                     "{\"prompt\":\"d\",\"json_object\":true}\n");
  ASSERT_EQ(Run({"generate", "--jsonl", path, "--regex=y", "--output=json"}), 0) << err_;
  EXPECT_EQ(seen["a"].regex(), "y");
  EXPECT_EQ(seen["b"].regex(), "x+");
  EXPECT_EQ(seen["c"].json_schema(), R"({"type":"object","properties":{"z":{},"a":{}}})")
      << "in the order of the line";
  EXPECT_TRUE(seen["d"].json_object());
  seen.clear();
  const std::string bad =
      WriteTemp("bad.jsonl", "{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"regex\":1}\n");
  EXPECT_NE(Run({"generate", "--jsonl", bad, "--output=json"}), 0);
  EXPECT_THAT(err_, HasSubstr("bad.jsonl:2: \"regex\" must be text"));
  EXPECT_TRUE(seen.empty()) << "nothing was sent";
}

TEST_F(LoractlTest, JsonlAnswersComeInTheOrderOfTheLinesWithTheirAdapters) {
  server_.inference.generate = Echo;
  server_.inference.generate_batch = EchoBatch;
  std::string content;
  for (int i = 0; i < 50; ++i) {
    absl::StrAppend(&content, "{\"prompt\":\"", i, "\"", i % 2 ? ",\"adapter\":\"odd\"" : "",
                    "}\n");
  }
  const std::string path = WriteTemp("prompts.jsonl", content);
  for (const char* how : {"--output=json", "--parallel=7"}) {  // in a batch, and one by one
    ASSERT_EQ(Run({"generate", "--jsonl", path, "--adapter=even", "--output=json", how}), 0)
        << err_;
    const auto lines = JsonLines();
    ASSERT_EQ(lines.size(), 50u);
    for (int i = 0; i < 50; ++i) {
      EXPECT_EQ(lines[i]["text"], absl::StrCat(i % 2 ? "odd:" : "even:", i));
    }
  }
}

TEST_F(LoractlTest, AFileThatIsLargerThanABatchGoesInSeveral) {
  std::vector<int> sizes;
  server_.inference.generate_batch = [&](const v1::GenerateBatchRequest& request,
                                         FakeInference::BatchWriter* writer) {
    sizes.push_back(request.requests_size());
    return EchoBatch(request, writer);
  };
  std::string content;
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&content, "{\"prompt\":\"", i, "\"}\n");
  ASSERT_EQ(Run({"generate", "--jsonl", WriteTemp("many.jsonl", content), "--output=json"}), 0);
  EXPECT_THAT(sizes, ElementsAre(4096, 904));
  const auto lines = JsonLines();
  ASSERT_EQ(lines.size(), 5000u);
  for (int i = 0; i < 5000; ++i) ASSERT_EQ(lines[i]["text"], absl::StrCat(":", i));
  // By bytes, too: three prompts of 3 MiB do not share a message of 8 MiB.
  sizes.clear();
  content.clear();
  for (int i = 0; i < 3; ++i) {
    absl::StrAppend(&content, "{\"prompt\":\"", std::string(3 << 20, 'x'), "\"}\n");
  }
  ASSERT_EQ(Run({"generate", "--jsonl", WriteTemp("long.jsonl", content), "--output=json"}), 0);
  EXPECT_THAT(sizes, ElementsAre(1, 1, 1));
}

TEST_F(LoractlTest, AnErrorInALineNamesTheLine) {
  server_.inference.generate = [](grpc::ServerContext*, const v1::GenerateRequest& request,
                                  FakeInference::Writer* writer) {
    if (request.prompt() == "b") return ServerError(grpc::NOT_FOUND, "adapter \"x\"");
    return Echo(nullptr, request, writer);
  };
  server_.inference.generate_batch = [](const v1::GenerateBatchRequest& request,
                                        FakeInference::BatchWriter* writer) {
    v1::GenerateBatchResponse message;
    message.set_request_index(1);
    message.mutable_error()->ParseFromString(
        ServerError(grpc::NOT_FOUND, "adapter \"x\"").error_details());
    writer->Write(message);
    message.set_request_index(0);
    *message.mutable_response() = EchoOf(request.requests(0));
    writer->Write(message);
    return grpc::Status::OK;
  };
  const std::string path = WriteTemp("p.jsonl", "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n");
  for (const char* how : {"--output=json", "--parallel=2"}) {
    EXPECT_EQ(Run({"generate", "--jsonl", path, "--output=json", how}), 3);
    EXPECT_THAT(err_, HasSubstr("p.jsonl:2: adapter \"x\""));
    EXPECT_THAT(err_, HasSubstr("[TEST]"));
    ASSERT_EQ(JsonLines().size(), 1u) << "what comes before it is printed";
    EXPECT_EQ(JsonLines()[0]["text"], ":a");
  }
}

TEST_F(LoractlTest, ScorePrintsNullForTheFirstTokenAndShortNumbers) {
  server_.inference.score = [](const v1::ScoreRequest& request, v1::ScoreResponse* reply) {
    *reply->mutable_ids() = request.ids().ids();
    for (int i = 1; i < request.ids().ids_size(); ++i) reply->add_logprobs(-1.2f * i);
    return grpc::Status::OK;
  };
  ASSERT_EQ(Run({"score", "--ids=[1,2,3]", "--output=json"}), 0) << err_;
  EXPECT_EQ(out_, "{\"logprobs\":[null,-1.2,-2.4]}\n");
  ASSERT_EQ(Run({"score", "--ids=[1]", "--output=json"}), 0) << err_;
  EXPECT_EQ(out_, "{\"logprobs\":[null]}\n");
}

TEST_F(LoractlTest, TokenizeAndDetokenizeAreReverse) {
  server_.inference.tokenize = [](const v1::TokenizeRequest& request, v1::TokenizeResponse* reply) {
    for (const char c : request.text()) reply->add_ids(c);
    if (!request.has_add_special_tokens() || request.add_special_tokens()) reply->add_ids(0);
    return grpc::Status::OK;
  };
  server_.inference.detokenize = [](const v1::DetokenizeRequest& request,
                                    v1::DetokenizeResponse* reply) {
    for (const int id : request.ids()) reply->mutable_text()->push_back(static_cast<char>(id));
    return grpc::Status::OK;
  };
  ASSERT_EQ(Run({"tokenize", "--text=ab", "--add_special_tokens=false", "--output=json"}), 0);
  EXPECT_EQ(out_, "{\"ids\":[97,98]}\n");
  ASSERT_EQ(Run({"tokenize", "--text=ab", "--output=json"}), 0);
  EXPECT_EQ(out_, "{\"ids\":[97,98,0]}\n");
  ASSERT_EQ(Run({"tokenize", "--text=", "--add_special_tokens=false", "--output=json"}), 0);
  EXPECT_EQ(out_, "{\"ids\":[]}\n");
  ASSERT_EQ(Run({"detokenize", "--ids=97,98", "--output=json"}), 0) << err_;
  EXPECT_EQ(out_, "{\"text\":\"ab\"}\n");
}

// Submits job-1, which does one step and then ends in `state`.
void ServeJob(FakeServer& server, v1::JobState state, v1::SubmitJobRequest* seen) {
  server.jobs.submit = [seen](const v1::SubmitJobRequest& request, v1::SubmitJobResponse* reply) {
    *seen = request;
    reply->mutable_job()->set_job_id("job-1");
    return grpc::Status::OK;
  };
  server.jobs.watch = [state](grpc::ServerContext*, const v1::WatchJobRequest&,
                              FakeJobs::Writer* writer) {
    v1::WatchJobResponse reply;
    reply.mutable_event()->set_seq(1);
    reply.mutable_event()->mutable_step()->set_step(1);
    reply.mutable_event()->mutable_step()->set_steps(1);
    reply.mutable_event()->mutable_step()->set_loss(2.5);
    reply.mutable_event()->mutable_step()->set_learning_rate(1e-3);
    writer->Write(reply);
    reply.mutable_event()->set_seq(2);
    v1::JobStateChange& change = *reply.mutable_event()->mutable_state_change();
    change.set_to(state);
    if (state == v1::JOB_STATE_FAILED) {
      change.mutable_error()->set_fault(v1::JOB_FAULT_USER);
      change.mutable_error()->mutable_status()->set_code(3);
      change.mutable_error()->mutable_status()->set_message("loss is not finite at step 2");
    }
    writer->Write(reply);
    return grpc::Status::OK;
  };
}

TEST_F(LoractlTest, SubmitAndWaitPrintsOneObjectPerEvent) {
  v1::SubmitJobRequest seen;
  ServeJob(server_, v1::JOB_STATE_SUCCEEDED, &seen);
  ASSERT_EQ(Run({"job", "submit", "--name=n", "--train=d", "--eval=e", "--r=4",
                 "--learning_rate=1e-3", "--wait", "--output=json"}),
            0)
      << err_;
  EXPECT_EQ(seen.spec().name(), "n");
  EXPECT_EQ(seen.spec().train_dataset(), "d");
  EXPECT_EQ(seen.spec().eval_dataset(), "e");
  EXPECT_EQ(seen.spec().training().r(), 4);
  const auto lines = JsonLines();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["step"], 1);
  EXPECT_EQ(lines[0]["loss"], 2.5);
  EXPECT_EQ(lines[0]["grad_norm"], 0);
  EXPECT_EQ(lines[0]["learning_rate"], 1e-3);
  EXPECT_EQ(lines[1]["state_change"]["to"], "JOB_STATE_SUCCEEDED");
}

TEST_F(LoractlTest, OnlyASucceededJobExitsWithZero) {
  v1::SubmitJobRequest seen;
  for (const v1::JobState state : {v1::JOB_STATE_FAILED, v1::JOB_STATE_CANCELLED}) {
    ServeJob(server_, state, &seen);
    EXPECT_EQ(Run({"job", "submit", "--name=n", "--train=d", "--wait", "--output=json"}), 1);
    EXPECT_EQ(Run({"job", "watch", "job-1"}), 1);
  }
  ServeJob(server_, v1::JOB_STATE_FAILED, &seen);
  EXPECT_EQ(Run({"job", "watch", "job-1"}), 1);
  EXPECT_THAT(out_, HasSubstr("step 1/1  loss 2.5  lr 0.001"));
  EXPECT_THAT(out_, HasSubstr("INVALID_ARGUMENT: loss is not finite at step 2"));
}

TEST_F(LoractlTest, ALocalFileIsUploadedFirstAndOnce) {
  v1::SubmitJobRequest seen;
  ServeJob(server_, v1::JOB_STATE_SUCCEEDED, &seen);
  v1::Dataset stored;
  int uploads = 0;
  server_.datasets.upload = [&](FakeDatasets::Reader* reader, v1::UploadDatasetResponse* reply) {
    ++uploads;
    v1::UploadDatasetRequest request;
    reader->Read(&request);
    stored.set_name(request.metadata().name());
    stored.set_sha256(request.metadata().sha256());
    while (reader->Read(&request)) {
    }
    *reply->mutable_dataset() = stored;
    return grpc::Status::OK;
  };
  server_.datasets.get = [&](const v1::GetDatasetRequest& request, v1::Dataset* reply) {
    if (request.name() != stored.name()) return ServerError(grpc::NOT_FOUND, "none");
    *reply = stored;
    return grpc::Status::OK;
  };
  const std::string path = WriteTemp("train.jsonl", "{\"text\":\"a\"}\n");
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(Run({"job", "submit", "--name=n", "--train=" + path, "--wait", "--output=json"}), 0)
        << err_;
    EXPECT_EQ(seen.spec().train_dataset(), stored.name());
    EXPECT_EQ(JsonLines().size(), 2u);  // the upload adds no line
  }
  EXPECT_EQ(uploads, 1);
  EXPECT_TRUE(stored.name().starts_with("train-")) << stored.name();
}

TEST_F(LoractlTest, SubmitWithoutWaitingPrintsTheJob) {
  v1::SubmitJobRequest seen;
  ServeJob(server_, v1::JOB_STATE_SUCCEEDED, &seen);
  ASSERT_EQ(Run({"job", "submit", "--name=n", "--train=d", "--output=json"}), 0) << err_;
  EXPECT_EQ(JsonLines()[0]["job_id"], "job-1");
  EXPECT_EQ(JsonLines()[0]["job"]["job_id"], "job-1");
  EXPECT_EQ(Run({"job", "submit", "--name=n"}), 2);
  EXPECT_THAT(err_, HasSubstr("--train is needed"));
  EXPECT_EQ(Run({"job", "submit", "--name=n", "--train=nowhere/x.jsonl"}), 3);
  EXPECT_THAT(err_, HasSubstr("nowhere/x.jsonl: no such file"));
}

TEST_F(LoractlTest, RefusalsShowTheFieldAndTheReason) {
  server_.jobs.submit = [](const v1::SubmitJobRequest&, v1::SubmitJobResponse*) {
    return ServerError(grpc::INVALID_ARGUMENT, "the job was refused", "spec.training.r");
  };
  EXPECT_EQ(Run({"job", "submit", "--name=n", "--train=d", "--r=0"}), 5);
  EXPECT_THAT(err_, HasSubstr("error: the job was refused [TEST]"));
  EXPECT_THAT(err_, HasSubstr("  spec.training.r: must be at least 1"));
}

TEST_F(LoractlTest, AliasesMoveByCompareAndSet) {
  v1::SetAliasRequest seen;
  server_.adapters.set_alias = [&](const v1::SetAliasRequest& request, v1::Alias* reply) {
    seen = request;
    if (request.has_expected_adapter()) return ServerError(grpc::ABORTED, "it points at n@2");
    reply->set_alias(request.alias());
    reply->set_adapter(request.adapter());
    return grpc::Status::OK;
  };
  ASSERT_EQ(Run({"adapter", "alias", "prod", "n@1"}), 0) << err_;
  EXPECT_EQ(out_, "prod -> n@1\n");
  EXPECT_FALSE(seen.has_expected_adapter());
  EXPECT_EQ(Run({"adapter", "alias", "prod", "n@1", "--expect=n@0"}), 6);
  EXPECT_EQ(seen.expected_adapter(), "n@0");
  EXPECT_EQ(Run({"adapter", "alias", "prod", "n@1", "--expect="}), 6);
  EXPECT_TRUE(seen.has_expected_adapter());
  EXPECT_EQ(Run({"adapter", "alias", "prod"}), 2);
  EXPECT_EQ(Run({"adapter", "alias", "prod", "n@1", "--remove"}), 2);
  EXPECT_EQ(Run({"adapter", "alias", "prod", "--remove"}), 0);
}

TEST_F(LoractlTest, TheServerComesFromTheFlagOrTheEnvironment) {
  server_.inference.tokenize = [](const v1::TokenizeRequest&, v1::TokenizeResponse*) {
    return grpc::Status::OK;
  };
  setenv("LORAD_SERVER", server_.address().c_str(), 1);
  EXPECT_EQ(RunRaw({"tokenize", "--text=a", "--output=json"}), 0);
  EXPECT_EQ(RunRaw({"tokenize", "--text=a", "--server=127.0.0.1:1"}), 4);
  EXPECT_THAT(err_, HasSubstr("cannot reach lorad at 127.0.0.1:1"));
  unsetenv("LORAD_SERVER");
}

TEST_F(LoractlTest, MistakesOnTheCommandLineSendNothing) {
  EXPECT_EQ(RunRaw({}), 2);
  EXPECT_THAT(err_, HasSubstr("Commands:"));
  EXPECT_EQ(RunRaw({"frobnicate"}), 2);
  EXPECT_EQ(RunRaw({"generate"}), 2);
  EXPECT_THAT(err_, HasSubstr("hint: loractl generate --help"));
  EXPECT_EQ(RunRaw({"info", "--token=x", "--server=example.org"}), 2);
  EXPECT_EQ(RunRaw({"--version"}), 0);
  EXPECT_EQ(RunRaw({"generate", "--help"}), 0);
  EXPECT_THAT(out_, HasSubstr("Examples:"));
}

}  // namespace
}  // namespace lorad::client::cli
