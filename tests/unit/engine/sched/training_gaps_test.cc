// The slices that a scheduler runs in its steps, counted on a clock that tests move.
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/engine/sched/fake_sliced_job.h"
#include "tests/unit/engine/sched/recording_training_sink.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

// Each token takes time: that of the pass that made it.
class TimedSink final : public RecordingSink {
 public:
  TimedSink(FakeClock& clock, const absl::Duration& pass) : clock_(clock), pass_(pass) {}
  void OnDelta(GenerateDelta delta) override {
    clock_.Advance(pass_);
    RecordingSink::OnDelta(std::move(delta));
  }

 private:
  FakeClock& clock_;
  const absl::Duration& pass_;
};

class TrainingGapsTest : public testing::Test {
 protected:
  void Serve(absl::Duration target, HarnessOptions options = {}) {
    options.now = [this] { return clock_.now(); };
    options.training.itl_target = target;
    harness_.emplace(std::move(options));
  }
  void Train(absl::Duration slice) {
    auto job = std::make_unique<FakeSlicedJob>(
        clock_, std::vector<FakeSlice>{{{SliceKind::kForwardQkv, 64}, slice}});
    job_ = job.get();
    const absl::StatusOr<uint64_t> id = harness_->scheduler->training().Claim();
    ASSERT_OK(id);
    ASSERT_OK(harness_->scheduler->StartTraining(
        {*id, std::move(job), std::make_shared<RecordingTrainingSink>()}));
  }
  std::shared_ptr<TimedSink> Submit(std::vector<int32_t> prompt, int32_t tokens) {
    auto sink = std::make_shared<TimedSink>(clock_, pass_);
    EXPECT_OK(harness_->scheduler->Generate(ServingHarness::Greedy(std::move(prompt), tokens),
                                            absl::InfiniteFuture(), sink));
    return sink;
  }
  // Slices of one step.
  int64_t Step() {
    const int64_t before = job_->begun();
    harness_->scheduler->RunOneStep();
    return job_->begun() - before;
  }

  FakeClock clock_;
  absl::Duration pass_ = absl::Milliseconds(10);
  std::optional<ServingHarness> harness_;
  FakeSlicedJob* job_ = nullptr;
};

TEST_F(TrainingGapsTest, SlicesFillWhatTheTargetLeaves) {
  Serve(absl::Milliseconds(30));
  Train(absl::Milliseconds(4));
  Submit(harness_->Prompt(0), 100);
  for (int i = 0; i < 5; ++i) Step();
  // 30 - 10 - 0.7 ms hold 4 of 4.02 ms.
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Step(), 4);
  EXPECT_EQ(harness_->itl_misses, 0);
  pass_ = absl::Milliseconds(21);  // the rise is seen in the step that brings it
  for (int i = 0; i < 2; ++i) EXPECT_LE(Step(), 2);
  EXPECT_EQ(harness_->itl_misses, 1);
  for (int i = 0; i < 60; ++i) EXPECT_LE(Step(), 2);
  EXPECT_EQ(Step(), 2);
  EXPECT_EQ(harness_->itl_misses, 1);
}

TEST_F(TrainingGapsTest, PromptsComeBeforeTraining) {
  HarnessOptions options;
  options.max_batch_tokens = 64;
  options.chunk_tokens = 32;
  Serve(absl::Milliseconds(30), std::move(options));
  Train(absl::Milliseconds(4));
  Submit(harness_->Prompt(0), 100);
  for (int i = 0; i < 5; ++i) Step();
  EXPECT_EQ(Step(), 4);
  const auto second = Submit(harness_->LongPrompt(1, 320), 50);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(Step(), 0) << i;
  Step();
  ASSERT_EQ(second->ids.size(), 1);
  EXPECT_GT(Step(), 0);
}

TEST_F(TrainingGapsTest, LongSlicesRunEveryHundredthStep) {
  Serve(absl::Milliseconds(15));
  Train(absl::Milliseconds(50));
  Submit(harness_->Prompt(0), 400);
  for (int i = 0; i < 20; ++i) Step();
  std::vector<int> steps_with_a_slice;
  for (int i = 0; i < 350; ++i)
    if (Step() > 0) steps_with_a_slice.push_back(i);
  ASSERT_EQ(steps_with_a_slice.size(), 3);
  EXPECT_EQ(steps_with_a_slice[1] - steps_with_a_slice[0], 101);
  EXPECT_EQ(steps_with_a_slice[2] - steps_with_a_slice[1], 101);
  EXPECT_LE(harness_->itl_misses, 5);
}

TEST_F(TrainingGapsTest, WithoutRequestsTrainingHasTheDevice) {
  Serve(absl::Milliseconds(30));
  Train(absl::Milliseconds(4));
  const auto request = Submit(harness_->Prompt(0), 20);
  while (!request->ended()) Step();
  const absl::Time began = clock_.now();
  const absl::Duration busy = job_->busy();
  while (clock_.now() < began + absl::Seconds(5)) EXPECT_GT(Step(), 0);
  EXPECT_GT(absl::FDivDuration(job_->busy() - busy, clock_.now() - began), 0.99);
  EXPECT_GT(harness_->scheduler->training_share(), 0.95);
}

TEST_F(TrainingGapsTest, WithoutATargetAtLeastOneSliceAndNoMoreThanServing) {
  Serve(absl::ZeroDuration());
  Train(absl::Milliseconds(4));
  Submit(harness_->Prompt(0), 100);
  for (int i = 0; i < 5; ++i) Step();
  EXPECT_EQ(Step(), 2);  // 8.04 ms beside 10
  pass_ = absl::Milliseconds(100);
  EXPECT_EQ(Step(), 2);
  pass_ = absl::Milliseconds(1);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(Step(), 1);
  EXPECT_EQ(harness_->itl_misses, 0);
}

}  // namespace
}  // namespace lorad
