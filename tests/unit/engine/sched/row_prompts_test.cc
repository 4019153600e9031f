// Prompts that share the passes of decoding: nobody's tokens wait for them, and no answer depends
// on where they were cut.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/engine/sched/fake_sliced_job.h"
#include "tests/unit/engine/sched/recording_training_sink.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

absl::Duration Ms(double value) { return absl::Milliseconds(value); }

HarnessOptions ByRows() {
  HarnessOptions options;
  options.prompt_kind = PassKind::kRowInvariant;
  return options;
}

// ---- The answers --------------------------------------------------------------------------------

class RowPromptsTest : public testing::Test {
 protected:
  static GenerateRequest Request(const ServingHarness& harness, int seed,
                                 const std::string& adapter = "") {
    GenerateRequest request =
        ServingHarness::Greedy(harness.LongPrompt(seed, 40 + 37 * seed), 60 + seed, adapter);
    request.logprobs = 3;
    return request;
  }
  static void ExpectSame(const RecordingSink& a, const RecordingSink& b) {
    EXPECT_OK(a.error);
    EXPECT_EQ(a.ids, b.ids);
    ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
    for (size_t i = 0; i < a.logprobs.size(); ++i) {
      EXPECT_EQ(a.logprobs[i].logprob, b.logprobs[i].logprob) << i;
      EXPECT_EQ(a.logprobs[i].top, b.logprobs[i].top) << i;
    }
  }
  // Five requests of two adapters and the base, each after `steps` more steps.
  static std::vector<std::shared_ptr<RecordingSink>> Together(ServingHarness& harness, int steps) {
    const std::string adapters[] = {"", harness.Register(harness.golden.AdapterDir("adapter_init")),
                                    harness.Register(harness.golden.AdapterDir("adapter_step8"))};
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int i = 0; i < 5; ++i) {
      sinks.push_back(harness.Submit(Request(harness, i, adapters[i % 3])));
      for (int step = 0; step < steps; ++step) harness.scheduler->RunOneStep();
    }
    harness.RunUntilIdle();
    return sinks;
  }
  static std::vector<std::shared_ptr<RecordingSink>> Alone(HarnessOptions options) {
    ServingHarness harness(std::move(options));
    const std::string adapters[] = {"", harness.Register(harness.golden.AdapterDir("adapter_init")),
                                    harness.Register(harness.golden.AdapterDir("adapter_step8"))};
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int i = 0; i < 5; ++i) sinks.push_back(harness.Solo(Request(harness, i, adapters[i % 3])));
    return sinks;
  }
};

TEST_F(RowPromptsTest, AnswersDoNotDependOnCompanyOrCuts) {
  const auto alone = Alone(ByRows());
  // A target that is always missed: prompts go on by 16 rows; none: by as many as a pass has.
  for (const double target_ms : {0.001, 0.0}) {
    for (const int steps : {0, 3, 12}) {
      HarnessOptions options = ByRows();
      options.training.itl_target = Ms(target_ms);
      ServingHarness harness(std::move(options));
      const auto together = Together(harness, steps);
      for (int i = 0; i < 5; ++i) ExpectSame(*together[i], *alone[i]);
      EXPECT_EQ(harness.cache->used_pages(), 0);
    }
  }
}

TEST_F(RowPromptsTest, AnswersDoNotDependOnPreemption) {
  const auto alone = Alone(ByRows());
  HarnessOptions options = ByRows();
  options.kv_pages = 32;
  options.chunk_tokens = 32;
  ServingHarness harness(std::move(options));
  const auto together = Together(harness, 1);
  EXPECT_GT(harness.scheduler->preemptions(), 0);
  for (int i = 0; i < 5; ++i) ExpectSame(*together[i], *alone[i]);
}

// Pages, whatever cuts a prompt was run in: another begins where the known part ends.
TEST_F(RowPromptsTest, KnownPagesGiveTheSameAnswer) {
  HarnessOptions options = ByRows();
  options.chunk_tokens = 48;
  ServingHarness warm(std::move(options));
  HarnessOptions without = ByRows();
  without.prefix_cache = false;
  ServingHarness cold(std::move(without));
  GenerateRequest request = Request(warm, 2), longer = Request(warm, 2);  // 114 tokens
  longer.prompt.resize(100);
  longer.prompt.insert(longer.prompt.end(), 30, 7);
  EXPECT_EQ(warm.Solo(request)->result->cached_tokens, 0);
  ExpectSame(*warm.Solo(request), *cold.Solo(request));
  ExpectSame(*warm.Solo(longer), *cold.Solo(longer));
  EXPECT_EQ(warm.Solo(request)->result->cached_tokens, 112);  // 7 pages of 16
  EXPECT_EQ(warm.requests[2].cached_tokens, 96);
}

// A matter of the prompt alone, like everything else about its numbers.
TEST_F(RowPromptsTest, ShortRestsOfMatrices) {
  const auto options = [] {
    HarnessOptions some;
    some.chunk_tokens = 48;
    some.row_chunk_tokens = 20;
    return some;
  };
  const auto alone = Alone(options());
  for (const int64_t pages : {512, 32}) {
    HarnessOptions few = options();
    few.kv_pages = pages;
    ServingHarness harness(std::move(few));
    const auto together = Together(harness, 1);
    for (int i = 0; i < 5; ++i) ExpectSame(*together[i], *alone[i]);
    EXPECT_EQ(harness.scheduler->preemptions() > 0, pages == 32);
  }
  // A prompt that is known up to there gives the same.
  ServingHarness harness(options());
  const auto first = harness.Solo(Request(harness, 3)), again = harness.Solo(Request(harness, 3));
  ExpectSame(*again, *first);
  EXPECT_EQ(again->result->cached_tokens, 144);  // of 151
}

TEST(SequenceTest, ChunksOfAPrompt) {
  GenerationLimits limits;
  limits.vocab = 100;
  limits.context_tokens = 1000;
  Sequence sequence;
  sequence.generation.emplace(ServingHarness::Greedy(std::vector<int32_t>(110, 7), 4), limits);
  const auto next = [&] {
    const Chunk chunk = sequence.NextChunk(/*chunk_tokens=*/32, /*row_chunk_tokens=*/14);
    sequence.computed = chunk.end;
    return chunk;
  };
  for (int i = 1; i <= 3; ++i) {
    const Chunk whole = next();
    EXPECT_EQ(whole.end, 32 * i);
    EXPECT_EQ(whole.kind, PassKind::kMatrix);
    EXPECT_FALSE(whole.draws);
  }
  const Chunk rest = next();
  EXPECT_EQ(rest.end, 110);
  EXPECT_EQ(rest.kind, PassKind::kRowInvariant);
  EXPECT_TRUE(rest.draws);
  sequence.computed = 96;
  EXPECT_EQ(sequence.NextChunk(32, 13).kind, PassKind::kMatrix);
  // A whole chunk is one pass for all who share it.
  sequence.computed = 0;
  EXPECT_EQ(sequence.NextChunk(10, 14).kind, PassKind::kMatrix);
}

TEST_F(RowPromptsTest, ScoresAreMatrices) {
  ServingHarness rows(ByRows()), matrix;
  const std::vector<int32_t> ids = rows.LongPrompt(3, 100);
  ASSERT_OK_AND_ASSIGN(const ScoreResult a, rows.Score(ids));
  ASSERT_OK_AND_ASSIGN(const ScoreResult b, matrix.Score(ids));
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t i = 1; i < a.logprobs.size(); ++i) EXPECT_EQ(a.logprobs[i], b.logprobs[i]);
}

// ---- The time between tokens --------------------------------------------------------------------

// When each token came.
class ClockedSink final : public RecordingSink {
 public:
  explicit ClockedSink(const FakeClock& clock) : clock_(clock), submitted(clock.now()) {}
  void OnDelta(GenerateDelta delta) override {
    at.push_back(clock_.now());
    RecordingSink::OnDelta(std::move(delta));
  }
  absl::Duration LargestGap() const {
    absl::Duration largest = absl::ZeroDuration();
    for (size_t i = 1; i < at.size(); ++i) largest = std::max(largest, at[i] - at[i - 1]);
    return largest;
  }

 private:
  const FakeClock& clock_;

 public:
  const absl::Time submitted;
  std::vector<absl::Time> at;
};

// An 8B model on one GPU: a pass over rows takes 4 ms and 60 us a row, a chunk as a matrix 15 ms.
class RowPromptTimesTest : public testing::TestWithParam<PassKind> {
 protected:
  void SetUp() override {
    HarnessOptions options;
    options.prompt_kind = GetParam();
    options.now = [this] { return clock_.now(); };
    options.training.itl_target = Ms(10);
    harness_.emplace(std::move(options));
    harness_->on_rows = [this](bool prefill, int32_t rows) {
      if (prefill && GetParam() == PassKind::kMatrix) return clock_.Advance(Ms(15));
      const bool same_pass = prefill && clock_.now() == decoded_;
      clock_.Advance(Ms(0.06 * rows + (same_pass ? 0 : 4)));
      if (!prefill) decoded_ = clock_.now();
    };
    auto job = std::make_unique<FakeSlicedJob>(
        clock_, std::vector<FakeSlice>{{{SliceKind::kForwardQkv, 64}, Ms(0.5)}});
    job_ = job.get();
    const absl::StatusOr<uint64_t> id = harness_->scheduler->training().Claim();
    ASSERT_OK(id);
    ASSERT_OK(harness_->scheduler->StartTraining(
        {*id, std::move(job), std::make_shared<RecordingTrainingSink>()}));
  }
  std::shared_ptr<ClockedSink> Submit(int seed, int prompt, int32_t tokens) {
    auto sink = std::make_shared<ClockedSink>(clock_);
    EXPECT_OK(harness_->scheduler->Generate(
        ServingHarness::Greedy(harness_->LongPrompt(seed, prompt), tokens), absl::InfiniteFuture(),
        sink));
    return sink;
  }
  void Step(int steps) {
    for (int i = 0; i < steps; ++i) harness_->scheduler->RunOneStep();
  }

  FakeClock clock_;
  absl::Time decoded_ = absl::InfinitePast();  // the last decoding rows
  std::optional<ServingHarness> harness_;
  FakeSlicedJob* job_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(, RowPromptTimesTest,
                         testing::Values(PassKind::kMatrix, PassKind::kRowInvariant),
                         [](const auto& info) {
                           return info.param == PassKind::kMatrix ? "Matrix" : "Rows";
                         });

TEST_P(RowPromptTimesTest, ALongPromptBesideDecoding) {
  for (int i = 0; i < 3; ++i) {  // pass sizes become known
    Submit(10 + i, 300, 3);
    Step(20);
  }
  const auto running = Submit(1, 20, 300);
  Step(100);
  ASSERT_GT(running->ids.size(), 50u);
  const absl::Time began = clock_.now();
  const absl::Duration busy = job_->busy();
  const auto prompt = Submit(2, 256, 50);
  Step(80);
  ASSERT_EQ(prompt->ids.size(), 50u);
  const absl::Duration first_token = prompt->at.front() - prompt->submitted;
  EXPECT_LE(first_token, Ms(60));
  if (GetParam() == PassKind::kMatrix) {
    EXPECT_GT(running->LargestGap(), Ms(15));  // which rows are there to avoid
    return;
  }
  EXPECT_LE(running->LargestGap(), Ms(10));
  EXPECT_LE(prompt->LargestGap(), Ms(10));
  EXPECT_EQ(harness_->itl_misses, 0);
  // 256 rows in passes of 64: five or six steps without training, the others with 5 ms of it.
  EXPECT_GT(absl::FDivDuration(job_->busy() - busy, clock_.now() - began), 0.4);
}

TEST_P(RowPromptTimesTest, NobodyToProtect) {
  Submit(0, 300, 2);
  Step(20);
  const auto second = Submit(1, 256, 2);
  Step(20);
  ASSERT_EQ(second->ids.size(), 2u);
  // As a matrix 15 ms. Passes of 256 rows: 19.4 ms; one of the sizes that had not run: 20 tokens
  // longer.
  const bool matrix = GetParam() == PassKind::kMatrix;
  EXPECT_LE(second->at.front() - second->submitted, matrix ? Ms(20) : Ms(60));
}

}  // namespace
}  // namespace lorad
