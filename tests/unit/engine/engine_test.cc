// The façade as the server uses it: from many threads, with a job beside it.
#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/io/tokenizer.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/engine/sched/recording_training_sink.h"

namespace lorad {
namespace {

using absl::StatusCode;

// Waits for the end of a request from another thread.
class WaitingSink : public GenerateSink {
 public:
  void OnDelta(GenerateDelta delta) override {
    ids.insert(ids.end(), delta.ids.begin(), delta.ids.end());
    for (const TokenLogprob& token : delta.logprobs) logprobs.push_back(token.logprob);
    text += delta.text;
    if (!first.HasBeenNotified()) first.Notify();
  }
  void OnFinish(const GenerateResult& finished) override {
    result = finished;
    ended.Notify();
  }
  void OnError(const absl::Status& status) override {
    error = status;
    ended.Notify();
  }

  std::vector<int32_t> ids;
  std::vector<float> logprobs;  // of the tokens, where they were asked for
  std::string text;
  std::optional<GenerateResult> result;
  absl::Status error;
  absl::Notification first, ended;
};

EngineConfig SmallConfig(const std::string& model_dir) {
  EngineConfig config;
  config.model_dir = model_dir;
  config.device = "cpu";
  config.memory_limit_bytes = int64_t{512} << 20;
  config.num_threads = 2;
  return config;
}

class EngineTest : public testing::Test {
 protected:
  explicit EngineTest(const char* model = "llama-gqa") : golden_(model) {}
  ~EngineTest() override {
    if (engine_ != nullptr) engine_->Shutdown(absl::Now() + absl::Seconds(60));
  }

  void Start(std::optional<EngineConfig> config = std::nullopt) {
    auto engine = CreateEngine(config.value_or(SmallConfig(golden_.model_dir())));
    ASSERT_OK(engine);
    engine_ = *std::move(engine);
  }
  std::string Register(const char* name) {
    const auto info = engine_->RegisterAdapter(golden_.AdapterDir(name));
    EXPECT_OK(info);
    return info->id;
  }
  GenerateRequest Greedy(int seed, int prompt_tokens, int max_tokens, std::string adapter = "") {
    GenerateRequest request;
    for (int i = 0; i < prompt_tokens; ++i)
      request.prompt.push_back(3 + (seed * 97 + i * i * 13 + i) % 700);
    request.sampling.temperature = 0;
    request.max_tokens = max_tokens;
    request.ignore_eos = true;
    request.adapter_id = std::move(adapter);
    return request;
  }
  std::shared_ptr<WaitingSink> Submit(GenerateRequest request, RequestId* id = nullptr,
                                      absl::Time deadline = absl::InfiniteFuture()) {
    auto sink = std::make_shared<WaitingSink>();
    const auto submitted = engine_->Generate(std::move(request), deadline, sink);
    EXPECT_OK(submitted);
    if (id != nullptr) *id = submitted.value_or(0);
    return sink;
  }
  std::vector<int32_t> Answer(GenerateRequest request) {
    const auto sink = Submit(std::move(request));
    sink->ended.WaitForNotification();
    EXPECT_OK(sink->error);
    return sink->ids;
  }
  MemoryUsage Usage(MemoryTag tag) const { return engine_->Stats().memory[static_cast<int>(tag)]; }

  Golden golden_;
  TempDir dir_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, SaysWhatItLoaded) {
  Start();
  const ModelInfo& info = engine_->model();
  EXPECT_EQ(info.name, "llama-gqa");
  EXPECT_EQ(info.architecture, "LlamaForCausalLM");
  EXPECT_EQ(info.quant, "nf4");
  EXPECT_EQ(info.vocab_size, 768);
  EXPECT_EQ(info.hidden_size, 128);
  EXPECT_EQ(info.num_layers, 3);
  EXPECT_EQ(info.context_tokens, 512);
  EXPECT_EQ(info.digest.size(), 64);
  EXPECT_EQ(info.device, "cpu");
  EXPECT_EQ(info.device_note, "");
  EXPECT_FALSE(info.has_tokenizer);
  EXPECT_EQ(engine_->tokenizer(), nullptr);
  EXPECT_EQ(info.weight_bytes, Usage(MemoryTag::kWeights).used_bytes);
}

TEST_F(EngineTest, AutoFallsBackToTheCpuAndSaysWhy) {
  EngineConfig config = SmallConfig(golden_.model_dir());
  config.device = "auto";
  Start(config);
  if (engine_->model().device == "cpu") {
    EXPECT_NE(engine_->model().device_note, "");
  }
}

TEST_F(EngineTest, MemoryIsWhatThePlanSaid) {
  const EngineConfig config = SmallConfig(golden_.model_dir());
  ASSERT_OK_AND_ASSIGN(const auto plan, PlanEngineMemory(config));
  Start(config);
  int64_t total = 0;
  for (const int64_t bytes : plan) total += bytes;
  EXPECT_LE(total, config.memory_limit_bytes);
  const auto planned = [&](MemoryTag tag) { return plan[static_cast<int>(tag)]; };
  EXPECT_EQ(Usage(MemoryTag::kWorkspace).used_bytes, planned(MemoryTag::kWorkspace));
  EXPECT_GT(planned(MemoryTag::kAdapters), 0);
  EXPECT_EQ(Usage(MemoryTag::kKvCache).used_bytes,  // one set of pages for both
            planned(MemoryTag::kKvCache) + planned(MemoryTag::kAdapters));
  EXPECT_EQ(Usage(MemoryTag::kTraining).limit_bytes, planned(MemoryTag::kTraining));
  // Blocks are aligned to 256 bytes and code books are shared: a few tensors a layer.
  EXPECT_NEAR(Usage(MemoryTag::kWeights).used_bytes, planned(MemoryTag::kWeights),
              256.0 * 4 * 8 * engine_->model().num_layers);
}

TEST_F(EngineTest, WrongConfigurationsAreNamed) {
  const auto expect = [&](auto change, StatusCode code, const char* text) {
    EngineConfig config = SmallConfig(golden_.model_dir());
    change(config);
    EXPECT_THAT(CreateEngine(config), StatusIs(code, text));
    EXPECT_THAT(PlanEngineMemory(config), StatusIs(code, text));
  };
  using C = EngineConfig;
  const StatusCode kInvalid = StatusCode::kInvalidArgument;
  expect([](C& c) { c.model_dir = ""; }, kInvalid, "model is empty");
  expect([](C& c) { c.model_dir = "/nowhere"; }, StatusCode::kNotFound, "/nowhere/config.json");
  expect([](C& c) { c.device = "gpu"; }, kInvalid, "it must be auto, cpu or cuda:N");
  expect([](C& c) { c.device = "cuda:x"; }, kInvalid, "cuda:x");
  expect([](C& c) { c.quant = "nf5"; }, kInvalid, "nf5");
  expect([](C& c) { c.max_batch_tokens = 0; }, kInvalid, "max_batch_tokens is 0");
  expect([](C& c) { c.max_running_requests = 0; }, kInvalid, "max_running_requests is 0");
  expect([](C& c) { c.max_queued_requests = -1; }, kInvalid, "max_queued_requests is -1");
  expect([](C& c) { c.adapter_host_memory_bytes = -1; }, kInvalid, "adapter_host_memory is -1");
  expect([](C& c) { c.kv_cache_tokens = -1; }, kInvalid, "kv_cache_tokens is -1");
  expect([](C& c) { c.num_threads = -1; }, kInvalid, "num_threads is -1");
  expect([](C& c) { c.itl_target_ms = 0.5; }, kInvalid, "itl_target_ms is 0.5");
  expect([](C& c) { c.itl_target_ms = NAN; }, kInvalid, "itl_target_ms is nan");
  expect([](C& c) { c.training_patience_steps = 0; }, kInvalid, "training_patience_steps is 0");
  expect([](C& c) { c.memory_limit_bytes = 1 << 20; }, StatusCode::kResourceExhausted,
         "1048576 bytes may be used");
  expect([](C& c) { c.kv_cache_tokens = int64_t{1} << 50; }, StatusCode::kResourceExhausted,
         "KV cache");
}

// Sampled tokens come from the quantised head, scores from the dense one, and memory is planned.
TEST_F(EngineTest, AQuantisedHeadForDecoding) {
  EngineConfig config = SmallConfig(golden_.model_dir());
  ASSERT_OK_AND_ASSIGN(const auto plan, PlanEngineMemory(config));
  const auto answer = [&] {
    GenerateRequest request = Greedy(1, 20, 1);
    request.logprobs = 1;
    const auto sink = Submit(std::move(request));
    sink->ended.WaitForNotification();
    EXPECT_OK(sink->error);
    return sink->logprobs.at(0);
  };
  Start(config);
  const float dense = answer();
  config.quant_head = true;
  ASSERT_OK_AND_ASSIGN(const auto larger, PlanEngineMemory(config));
  EXPECT_GT(larger[static_cast<int>(MemoryTag::kWeights)],
            plan[static_cast<int>(MemoryTag::kWeights)]);
  Start(config);
  const float quantised = answer();
  EXPECT_NE(quantised, dense);
  EXPECT_NEAR(quantised, dense, 0.5);
  config.quant = "none";
  EXPECT_THAT(PlanEngineMemory(config), StatusIs(StatusCode::kInvalidArgument, "quant_head"));
  EXPECT_THAT(CreateEngine(config), StatusIs(StatusCode::kInvalidArgument, "quant_head"));
}

TEST_F(EngineTest, TheCacheBoundsTheContext) {
  EngineConfig config = SmallConfig(golden_.model_dir());
  config.kv_cache_tokens = 100;  // two pages of 64
  Start(config);
  EXPECT_EQ(engine_->model().context_tokens, 128);
  EXPECT_THAT(
      engine_->Generate(Greedy(0, 128, 1), absl::InfiniteFuture(), std::make_shared<WaitingSink>()),
      StatusIs(StatusCode::kInvalidArgument, "the prompt has 128 tokens"));
  EXPECT_EQ(Answer(Greedy(0, 120, 50)).size(), 8);
}

TEST_F(EngineTest, WrongRequestsAreRefusedBeforeTheyAreQueued) {
  Start();
  const auto sink = std::make_shared<WaitingSink>();
  GenerateRequest request = Greedy(0, 4, 4);
  request.prompt[2] = 768;
  EXPECT_THAT(engine_->Generate(request, absl::InfiniteFuture(), sink),
              StatusIs(StatusCode::kInvalidArgument, "prompt[2] is 768"));
  request = Greedy(0, 4, 4);
  request.sampling.temperature = NAN;
  EXPECT_THAT(engine_->Generate(request, absl::InfiniteFuture(), sink),
              StatusIs(StatusCode::kInvalidArgument, "temperature"));
  request = Greedy(0, 4, 4);
  request.stop_strings = {"x"};
  EXPECT_THAT(engine_->Generate(request, absl::InfiniteFuture(), sink),
              StatusIs(StatusCode::kFailedPrecondition, "tokenizer"));
  request = Greedy(0, 4, 4);
  request.constraint.kind = ConstraintSpec::Kind::kJsonObject;
  EXPECT_THAT(engine_->Generate(request, absl::InfiniteFuture(), sink),
              StatusIs(StatusCode::kFailedPrecondition, "json_object needs a tokenizer"));
  EXPECT_THAT(engine_->Generate(Greedy(0, 4, 4, "no"), absl::InfiniteFuture(), sink),
              StatusIs(StatusCode::kNotFound, "no"));
  EXPECT_THAT(engine_->Score({}, [](auto) {}), StatusIs(StatusCode::kInvalidArgument, "ids"));
  EXPECT_FALSE(sink->ended.HasBeenNotified());
}

// The claim of the whole design: 16 streams over two adapters and the base, from threads of their
// own, while a job trains and adapters are loaded and unloaded, each equal to its answer alone.
TEST_F(EngineTest, SixteenStreamsWhileAJobTrains) {
  Start();
  const std::string adapters[] = {"", Register("adapter_init"), Register("adapter_step8")};
  std::vector<GenerateRequest> requests;
  std::vector<std::vector<int32_t>> solo;
  for (int i = 0; i < 16; ++i) {
    requests.push_back(Greedy(i, 5 + 9 * i, 24, adapters[i % 3]));
    solo.push_back(Answer(requests.back()));
  }
  const auto training = std::make_shared<RecordingTrainingSink>();
  TrainingSpec spec = SmallTrainingSpec(dir_.path(), "adapter");
  spec.max_steps = 100000;  // stopped below
  ASSERT_OK_AND_ASSIGN(const TrainingId job, engine_->StartTraining(spec, training));
  EXPECT_TRUE(engine_->Stats().training);
  EXPECT_THAT(engine_->StartTraining(spec, training),
              StatusIs(StatusCode::kFailedPrecondition, "one job runs at a time"));

  std::atomic<int> wrong = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&, i] {
      for (int round = 0; round < 3; ++round) wrong += Answer(requests[i]) != solo[i];
    });
  }
  std::thread swapper([&] {
    for (int swap = 0; swap < 20; ++swap) {
      EXPECT_OK(engine_->UnloadAdapter(adapters[1 + swap % 2], absl::Now() + absl::Seconds(60)));
      EXPECT_OK(engine_->LoadAdapter(adapters[1 + swap % 2]));
      engine_->Stats();
      engine_->Adapters();
    }
  });
  for (std::thread& client : clients) client.join();
  swapper.join();
  EXPECT_EQ(wrong, 0);
  engine_->StopTraining(job, /*checkpoint=*/false);
  training->ended.WaitForNotification();
  EXPECT_TRUE(training->stopped_at.has_value()) << training->error;
  EXPECT_EQ(Usage(MemoryTag::kTraining).used_bytes, 0);
  EXPECT_EQ(engine_->Stats().kv_pages_used, 0);
  EXPECT_EQ(engine_->Stats().running_requests, 0);
}

// 100 tokens a step make chunks of one page, 64 tokens.
TEST_F(EngineTest, KnownPromptsAreReportedAndCanBeSwitchedOff) {
  std::vector<int32_t> answers[2];
  for (const bool on : {true, false}) {
    EngineConfig config = SmallConfig(golden_.model_dir());
    config.max_batch_tokens = 100;
    config.prefix_cache = on;
    engine_.reset();
    Start(config);
    for (const int32_t cached : {0, on ? 192 : 0}) {
      const auto sink = Submit(Greedy(7, 200, 5));
      sink->ended.WaitForNotification();
      ASSERT_TRUE(sink->result.has_value()) << sink->error;
      EXPECT_EQ(sink->result->cached_tokens, cached);
      answers[on].insert(answers[on].end(), sink->ids.begin(), sink->ids.end());
    }
    const EngineStats stats = engine_->Stats();
    EXPECT_EQ(stats.kv_pages_used, 0);
    EXPECT_EQ(stats.kv_pages_cached, on ? 3 : 0);
    EXPECT_EQ(stats.prefix_query_tokens, on ? 400 : 0);
    EXPECT_EQ(stats.prefix_hit_tokens, on ? 192 : 0);
    EXPECT_EQ(stats.prefix_evicted_tokens, 0);
  }
  EXPECT_EQ(answers[0], answers[1]);
}

TEST_F(EngineTest, StepsBelowAPageLeaveThePrefixCacheOff) {
  EngineConfig config = SmallConfig(golden_.model_dir());
  config.max_batch_tokens = 63;
  Start(config);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(Answer(Greedy(7, 200, 2)).size(), 2);
  EXPECT_EQ(engine_->Stats().kv_pages_cached, 0);
  EXPECT_EQ(engine_->Stats().prefix_query_tokens, 0);
}

TEST_F(EngineTest, JobsAreCheckedBeforeTheyStart) {
  Start();
  const auto sink = std::make_shared<RecordingTrainingSink>();
  TrainingSpec spec = SmallTrainingSpec(dir_.path(), "adapter");
  ASSERT_OK_AND_ASSIGN(const TrainingPlan plan, engine_->PlanTraining(spec));
  EXPECT_EQ(plan.steps, 6);
  EXPECT_EQ(plan.adapted_modules, 21);
  EXPECT_GT(plan.peak_bytes, 0);
  EXPECT_EQ(Usage(MemoryTag::kTraining).used_bytes, 0);
  ASSERT_OK_AND_ASSIGN(const DatasetReport report, engine_->ValidateDataset(spec.train_path, 48));
  EXPECT_EQ(report.samples, 12);
  EXPECT_EQ(report.target_tokens, 12 * 16);
  spec.lora.r = 0;
  EXPECT_THAT(engine_->StartTraining(spec, sink), StatusIs(StatusCode::kInvalidArgument, "r"));
  EXPECT_THAT(engine_->PlanTraining(spec), StatusIs(StatusCode::kInvalidArgument, "r"));
  EXPECT_FALSE(engine_->Stats().training);  // the slot is free again
}

TEST_F(EngineTest, AdaptersByTier) {
  Start();
  EXPECT_THAT(engine_->RegisterAdapter("/nowhere"), StatusIs(StatusCode::kNotFound, "/nowhere"));
  const auto info = engine_->InspectAdapter(golden_.AdapterDir("adapter_init"));
  ASSERT_OK(info);
  EXPECT_TRUE(engine_->Adapters().empty());
  EXPECT_EQ(info->r, 8);
  EXPECT_EQ(info->lora_alpha, 16);
  EXPECT_EQ(info->adapted_modules, 21);
  const std::string id = Register("adapter_init");
  EXPECT_EQ(id, info->id);
  EXPECT_EQ(Register("adapter_init"), id);  // again: no error
  ASSERT_EQ(engine_->Adapters().size(), 1);
  EXPECT_EQ(engine_->Stats().adapters_host, 1);
  EXPECT_OK(engine_->LoadAdapter(id));
  EXPECT_EQ(engine_->Adapters()[0].tier, AdapterTier::kDevice);
  EXPECT_EQ(engine_->Adapters()[0].device_bytes, Usage(MemoryTag::kAdapters).used_bytes);
  EXPECT_EQ(info->device_bytes, Usage(MemoryTag::kAdapters).used_bytes);
  EXPECT_OK(engine_->UnloadAdapter(id, absl::InfiniteFuture()));
  EXPECT_EQ(Usage(MemoryTag::kAdapters).used_bytes, 0);
  EXPECT_OK(engine_->UnregisterAdapter(id));
  EXPECT_THAT(engine_->LoadAdapter(id), StatusIs(StatusCode::kNotFound, id));
}

TEST_F(EngineTest, CancelAndDeadline) {
  Start();
  RequestId id = 0;
  const auto cancelled = Submit(Greedy(1, 4, 500), &id);
  cancelled->first.WaitForNotification();
  engine_->Cancel(id);
  cancelled->ended.WaitForNotification();
  ASSERT_TRUE(cancelled->result.has_value());
  EXPECT_EQ(cancelled->result->finish_reason, FinishReason::kCancelled);
  const auto late = Submit(Greedy(1, 4, 4), nullptr, absl::Now() - absl::Seconds(1));
  late->ended.WaitForNotification();
  ASSERT_TRUE(late->result.has_value());
  EXPECT_EQ(late->result->finish_reason, FinishReason::kDeadline);
}

TEST_F(EngineTest, AFinishedJobServesFromMemory) {
  Start();
  const auto training = std::make_shared<RecordingTrainingSink>();
  std::shared_ptr<WaitingSink> early;
  std::string files_then = "unknown";
  const TrainingSpec spec = SmallTrainingSpec(dir_.path(), "adapter");
  training->at_publication = [&](const std::string& id) {
    files_then = std::filesystem::exists(spec.output_dir) ? "there" : "none";
    EXPECT_OK(engine_->FindAdapter(id));
    early = Submit(Greedy(3, 20, 10, id));
  };
  ASSERT_OK(engine_->StartTraining(spec, training));
  training->ended.WaitForNotification();
  ASSERT_TRUE(training->result.has_value()) << training->error;
  ASSERT_TRUE(training->publication.has_value());
  EXPECT_EQ(files_then, "none");
  const std::string id = training->result->adapter_id;
  EXPECT_EQ(training->publication->adapter_id, id);
  early->ended.WaitForNotification();
  EXPECT_OK(early->error);
  // The same from its files.
  ASSERT_OK_AND_ASSIGN(const AdapterInfo from_files, engine_->RegisterAdapter(spec.output_dir));
  EXPECT_EQ(from_files.id, id);
  ASSERT_OK_AND_ASSIGN(const AdapterInfo info, engine_->FindAdapter(id));
  EXPECT_EQ(info.parameters, from_files.parameters);
  EXPECT_EQ(info.target_modules, from_files.target_modules);
  EXPECT_OK(engine_->UnloadAdapter(id, absl::InfiniteFuture()));
  EXPECT_EQ(engine_->Stats().adapters_disk, 1);
  EXPECT_EQ(Answer(Greedy(3, 20, 10, id)), early->ids);
}

TEST_F(EngineTest, ShutdownEndsRequestsAndStopsTheJobWithACheckpoint) {
  Start();
  const auto training = std::make_shared<RecordingTrainingSink>();
  TrainingSpec spec = SmallTrainingSpec(dir_.path(), "adapter");
  spec.max_steps = 100000;
  ASSERT_OK(engine_->StartTraining(spec, training));
  training->first_step.WaitForNotification();
  const auto request = Submit(Greedy(1, 4, 100));
  engine_->Shutdown(absl::Now() + absl::Seconds(60));
  ASSERT_TRUE(request->result.has_value()) << request->error;
  EXPECT_EQ(request->result->generated_tokens, 100);
  ASSERT_TRUE(training->stopped_at.has_value()) << training->error;
  EXPECT_GE(*training->stopped_at, 1);
  EXPECT_THAT(engine_->Generate(Greedy(1, 4, 4), absl::InfiniteFuture(), request),
              StatusIs(StatusCode::kUnavailable, "shutting down"));
  EXPECT_THAT(engine_->StartTraining(spec, training), StatusIs(StatusCode::kUnavailable, ""));
  engine_->Shutdown(absl::Now());  // again: no effect
}

// ---- The bundled model, which has a tokenizer ---------------------------------------------------

class DemoModelTest : public EngineTest {
 protected:
  void SetUp() override {
    Start(SmallConfig(LORAD_SOURCE_DIR "/deploy/demo/base"));
    ASSERT_NE(engine_->tokenizer(), nullptr);
  }
  GenerateRequest Prompt(const std::string& text, int max_tokens) {
    GenerateRequest request;
    request.prompt = *engine_->tokenizer()->Encode(text);
    request.sampling.temperature = 0;
    request.max_tokens = max_tokens;
    return request;
  }
};

TEST_F(DemoModelTest, TextIsTheDecodedIds) {
  const auto sink = Submit(Prompt("Once upon a time", 40));
  sink->ended.WaitForNotification();
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  EXPECT_FALSE(sink->text.empty());
  EXPECT_EQ(sink->text, engine_->tokenizer()->Decode(sink->ids));
}

// Constrained and free requests decode in one batch; each gets what it asked for, and the same
// again.
TEST_F(DemoModelTest, ConstrainedAnswersBesideFreeOnes) {
  const GenerateRequest free = Prompt("Question:", 24);
  GenerateRequest tied = free;
  tied.constraint = {ConstraintSpec::Kind::kRegex, "(yes|no)(, [a-z]{3,5}){4}"};
  tied.max_tokens = 0;
  const std::shared_ptr<WaitingSink> alone = Submit(free);
  alone->ended.WaitForNotification();
  std::vector<std::shared_ptr<WaitingSink>> frees, ties;
  for (int i = 0; i < 4; ++i) {
    frees.push_back(Submit(free));
    ties.push_back(Submit(tied));
  }
  for (int i = 0; i < 4; ++i) {
    frees[i]->ended.WaitForNotification();
    ties[i]->ended.WaitForNotification();
    EXPECT_EQ(frees[i]->text, alone->text);
    ASSERT_OK(ties[i]->error);
    EXPECT_EQ(ties[i]->result->finish_reason, FinishReason::kStop);
    EXPECT_TRUE(std::regex_match(ties[i]->text, std::regex(tied.constraint.text))) << ties[i]->text;
    EXPECT_EQ(ties[i]->text, ties[0]->text);
  }
  EXPECT_OK(engine_->CheckConstraint(tied.constraint));
  EXPECT_THAT(engine_->CheckConstraint({ConstraintSpec::Kind::kRegex, "("}),
              StatusIs(StatusCode::kInvalidArgument, "regex: at byte 0"));
}

TEST_F(DemoModelTest, StopStringsEndTheText) {
  const auto free = Submit(Prompt("Once upon a time", 40));
  free->ended.WaitForNotification();
  ASSERT_GT(free->text.size(), 20);
  const std::string stop = free->text.substr(11, 4);
  GenerateRequest request = Prompt("Once upon a time", 40);
  request.stop_strings = {stop};
  const auto stopped = Submit(request);
  stopped->ended.WaitForNotification();
  ASSERT_TRUE(stopped->result.has_value()) << stopped->error;
  EXPECT_EQ(stopped->result->finish_reason, FinishReason::kStop);
  EXPECT_EQ(stopped->text, free->text.substr(0, free->text.find(stop)));
  EXPECT_LT(stopped->ids.size(), free->ids.size());
}

}  // namespace
}  // namespace lorad
