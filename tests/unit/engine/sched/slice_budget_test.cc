// The controller alone, and in a loop with a pacer and a job on a clock that stands still in
// between.
#include "engine/sched/slice_budget.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "engine/sched/training_pacer.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/engine/sched/fake_sliced_job.h"
#include "tests/unit/engine/sched/recording_training_sink.h"

namespace lorad {
namespace {

absl::Duration Ms(double value) { return absl::Milliseconds(value); }

// ---- The controller alone -----------------------------------------------------------------------

class SliceBudgetTest : public testing::Test {
 protected:
  // A step that decodes for `decode` and then prefills `chunks` for `prefill`.
  bool Serve(SliceBudget& budget, absl::Duration decode, int chunks = 0,
             absl::Duration prefill = absl::ZeroDuration(), bool backlog = false) {
    ServedStep step;
    step.began = now_;
    step.decoded = now_ + decode;
    now_ = step.ended = step.decoded + prefill;
    step.decode_rows = decode > absl::ZeroDuration() ? 8 : 0;
    step.chunks = chunks;
    step.backlog = backlog;
    return budget.OnServed(step);
  }
  absl::Duration Room(const SliceBudget& budget) const { return budget.allowance().until - now_; }

  static SliceBudgetOptions Target(double ms) { return {.itl_target = Ms(ms)}; }
  // 2 % of the target and 0.1 ms, see SliceBudget::Slack.
  static absl::Duration Margin(double target_ms) { return Ms(target_ms / 50 + 0.1); }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
};

TEST_F(SliceBudgetTest, SteadyDecodingLeavesTheRestOfTheTarget) {
  SliceBudget budget(Target(30));
  for (int i = 0; i < 20; ++i) Serve(budget, Ms(6));
  EXPECT_EQ(Room(budget), Ms(24) - Margin(30));
  EXPECT_FALSE(budget.allowance().at_least_one);
}

TEST_F(SliceBudgetTest, BeforeTheFirstDecodingPassItIsTakenForHalfTheTarget) {
  SliceBudget budget(Target(30));
  Serve(budget, absl::ZeroDuration(), 1, Ms(10));
  EXPECT_EQ(Room(budget), Ms(15) - Margin(30));
}

TEST_F(SliceBudgetTest, ThrottlesInTheStepAfterARise) {
  SliceBudget budget(Target(30));
  for (int i = 0; i < 50; ++i) Serve(budget, Ms(5));
  Serve(budget, Ms(20));
  EXPECT_EQ(Room(budget), Ms(10) - Margin(30));
  Serve(budget, Ms(20));
  EXPECT_EQ(Room(budget), Ms(10) - Margin(30));
  for (int i = 0; i < 50; ++i) {
    Serve(budget, Ms(20));
    // Learning adds deviations for a while: room is lost, never gained.
    EXPECT_LE(Room(budget), Ms(10) - Margin(30));
  }
  EXPECT_GT(Room(budget), Ms(8));
}

TEST_F(SliceBudgetTest, GivesBackSoonAfterAFall) {
  SliceBudget budget(Target(30));
  for (int i = 0; i < 50; ++i) Serve(budget, Ms(20));
  const absl::Time fall = now_;
  while (Room(budget) < Ms(22)) {
    Serve(budget, Ms(5));
    now_ += std::max(Room(budget), absl::ZeroDuration());  // training takes what it may
    Serve(budget, Ms(5));
    ASSERT_LT(now_ - fall, absl::Seconds(2));
  }
}

TEST_F(SliceBudgetTest, OneStallIsForgotten) {
  SliceBudget budget(Target(30));
  for (int i = 0; i < 50; ++i) Serve(budget, Ms(5));
  Serve(budget, absl::Seconds(1));
  EXPECT_LT(Room(budget), absl::ZeroDuration());
  for (int i = 0; i < 20; ++i) Serve(budget, Ms(5));
  EXPECT_GT(Room(budget), Ms(20));
}

TEST_F(SliceBudgetTest, PrefillComesOutOfTheSameTarget) {
  SliceBudget budget(Target(30));
  for (int i = 0; i < 20; ++i) Serve(budget, Ms(5), 1, Ms(10));
  EXPECT_EQ(Room(budget), Ms(30 - 5 - 10) - Margin(30));
  // A second chunk would end at 20 ms, and the next pass at 25 ms.
  EXPECT_EQ(budget.prefill_budget(), Ms(30 - 5 - 10) - Margin(30));
  for (int i = 0; i < 50; ++i) Serve(budget, Ms(5), 1, Ms(26));
  EXPECT_EQ(budget.prefill_budget(), absl::ZeroDuration());
  EXPECT_LT(Room(budget), absl::ZeroDuration());
}

TEST_F(SliceBudgetTest, ABacklogGoesFirst) {
  SliceBudget budget(Target(30));
  for (int i = 0; i < 20; ++i) Serve(budget, Ms(5));
  Serve(budget, Ms(5), 0, absl::ZeroDuration(), /*backlog=*/true);
  EXPECT_EQ(budget.allowance().until, absl::InfinitePast());
  Serve(budget, Ms(5));
  EXPECT_GT(Room(budget), Ms(20));
}

class SlotsTest : public SliceBudgetTest {
 protected:
  // What training may take beside `running` requests of passes of 5 ms.
  absl::Duration RoomBeside(SliceBudget& budget, int32_t running, int32_t slots, bool queue) {
    ServedStep step;
    step.began = now_;
    step.decoded = now_ = step.ended = now_ + Ms(5);
    step.decode_rows = running;
    step.running = running;
    step.slots = slots;
    step.queue = queue;
    budget.OnServed(step);
    return Room(budget);
  }
};

TEST_F(SlotsTest, TrainingTakesLessWhenMostAreTaken) {
  SliceBudget budget(Target(30));
  const absl::Duration all = Ms(25) - Margin(30);
  for (const int running : {1, 16, 32}) EXPECT_EQ(RoomBeside(budget, running, 64, false), all);
  EXPECT_EQ(RoomBeside(budget, 48, 64, false), all * 0.625);
  EXPECT_EQ(RoomBeside(budget, 64, 64, false), all * 0.25);
  // Few slots are not many requests.
  for (const int slots : {0, 1, 8}) EXPECT_EQ(RoomBeside(budget, slots, slots, false), all);
}

TEST_F(SlotsTest, WhenTheyHaveRunOutTrainingWaitsUntilMostAreFree) {
  SliceBudget budget(Target(30));
  EXPECT_GT(RoomBeside(budget, 63, 64, true), Ms(0));  // what waits has no adapter yet
  EXPECT_LT(RoomBeside(budget, 64, 64, true), Ms(0));
  EXPECT_LT(RoomBeside(budget, 17, 64, false), Ms(0));
  EXPECT_GT(RoomBeside(budget, 16, 64, false), Ms(20));
  EXPECT_GT(RoomBeside(budget, 32, 64, false), Ms(20));
  EXPECT_GT(RoomBeside(budget, 1, 1, true), Ms(20));  // one alone: the backlog decides
}

// They were free in between, though no step with few of them was served.
TEST_F(SlotsTest, AnIdleStepFreesThemAll) {
  SliceBudget budget(Target(30));
  EXPECT_LT(RoomBeside(budget, 64, 64, true), Ms(0));
  budget.OnIdle();
  EXPECT_GT(RoomBeside(budget, 20, 64, false), Ms(20));
}

// A load that keeps more than a quarter of them taken must not keep training out for good.
TEST_F(SlotsTest, TrainingComesBackWhenNobodyHasWaitedForAWhile) {
  SliceBudget budget(Target(30));
  EXPECT_LT(RoomBeside(budget, 64, 64, true), Ms(0));
  const absl::Time queued = now_;
  while (RoomBeside(budget, 30, 64, false) < Ms(0)) ASSERT_LT(now_ - queued, absl::Seconds(5));
  EXPECT_GT(now_ - queued, absl::Seconds(2));
}

TEST_F(SliceBudgetTest, PatienceEnds) {
  SliceBudgetOptions options = Target(10);
  options.patience_steps = 7;
  SliceBudget budget(options);
  int forced = 0;
  for (int i = 0; i < 70; ++i) {
    Serve(budget, Ms(12), 0, absl::ZeroDuration(), /*backlog=*/i % 2 == 0);
    EXPECT_LT(Room(budget), absl::ZeroDuration());
    forced += budget.allowance().at_least_one;
    budget.OnTrained(budget.allowance().at_least_one ? 1 : 0);
  }
  EXPECT_EQ(forced, 8);  // every eighth step, from the eighth on
}

// While nothing is served training has all the time, so it has not waited.
TEST_F(SliceBudgetTest, PatienceBeginsAnewAfterAnIdleStep) {
  SliceBudgetOptions options = Target(10);
  options.patience_steps = 3;
  SliceBudget budget(options);
  const auto starve = [&] {
    Serve(budget, Ms(12));
    const bool forced = budget.allowance().at_least_one;
    budget.OnTrained(0);
    return forced;
  };
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(starve());
  budget.OnIdle();
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(starve()) << i;
  EXPECT_TRUE(starve());
}

TEST_F(SliceBudgetTest, TellsOfLateTokens) {
  SliceBudget budget(Target(10));
  EXPECT_FALSE(Serve(budget, Ms(20)));  // there was no token before
  EXPECT_FALSE(Serve(budget, Ms(10)));
  EXPECT_TRUE(Serve(budget, Ms(10.5)));
  now_ += Ms(6);  // a slice
  EXPECT_TRUE(Serve(budget, Ms(5)));
  budget.OnIdle();
  now_ += absl::Seconds(5);
  EXPECT_FALSE(Serve(budget, Ms(5)));
  EXPECT_FALSE(Serve(budget, Ms(5), 1, Ms(7)));
  EXPECT_TRUE(Serve(budget, Ms(5)));  // the chunk delayed it
}

// Passes of 4.5 ms for 16 rows and 8 for 64, seen in both.
class PromptRowsTest : public SliceBudgetTest {
 protected:
  bool Pass(SliceBudget& budget, int32_t decode_rows, int32_t prompt_rows, double ms,
            bool backlog = true) {
    ServedStep step;
    step.began = now_;
    step.decoded = now_ = step.ended = now_ + Ms(ms);
    step.decode_rows = decode_rows;
    step.prompt_rows = prompt_rows;
    step.backlog = backlog;
    return budget.OnServed(step);
  }
  void Teach(SliceBudget& budget) {
    for (int i = 0; i < 10; ++i) {
      Pass(budget, 0, 16, 4.5);
      Pass(budget, 0, 64, 8);
      Pass(budget, 0, 256, 30);
    }
    Pass(budget, 10, 0, 4.5);
  }
};

TEST_F(PromptRowsTest, ThatFitBesideDecoding) {
  SliceBudget budget(Target(10));
  Teach(budget);
  EXPECT_EQ(budget.PromptRows(10, 246, now_), 54);  // of 64
  EXPECT_EQ(budget.PromptRows(10, 30, now_), 30);
  EXPECT_EQ(budget.PromptRows(40, 216, now_), 24);
  // A slice of training has taken 4 ms: a pass of 32 fits, which takes 5.7 by the line.
  EXPECT_EQ(budget.PromptRows(10, 246, now_ + Ms(4)), 22);
  EXPECT_EQ(budget.PromptRows(10, 246, now_ + Ms(5)), 16);  // 6, but the prompt has waited a step
  SliceBudget wide(Target(40));
  Teach(wide);
  EXPECT_EQ(wide.PromptRows(10, 246, now_), 246);
}

TEST_F(PromptRowsTest, ThatHaveJustComeWaitWhereTrainingTookTheTime) {
  SliceBudget budget(Target(10));
  Teach(budget);
  Pass(budget, 10, 0, 4.5, /*backlog=*/false);
  EXPECT_EQ(budget.PromptRows(10, 246, now_), 54);
  EXPECT_EQ(budget.PromptRows(10, 246, now_ + Ms(5)), 6);
  EXPECT_EQ(budget.PromptRows(10, 246, now_ + Ms(7)), 0);
}

TEST_F(PromptRowsTest, GoOnWhereDecodingAloneTakesTheTarget) {
  SliceBudget budget(Target(10));
  for (int i = 0; i < 5; ++i) Pass(budget, 60, 0, 11);
  EXPECT_EQ(budget.PromptRows(60, 196, now_), 16);
  EXPECT_EQ(budget.PromptRows(60, 4, now_), 4);
}

// Rows that came while prompts shared every pass have never decoded alone.
TEST_F(PromptRowsTest, TheNextDecodingPassHasTheRowsThatNowRun) {
  SliceBudget budget(Target(10));
  ServedStep step;
  const auto serve = [&](int32_t decode, int32_t prompt, int32_t running, double ms) {
    step.began = now_;
    step.decoded = step.ended = now_ = now_ + Ms(ms);
    step.decode_rows = decode, step.prompt_rows = prompt, step.running = running;
    budget.OnServed(step);
  };
  for (int i = 0; i < 10; ++i) serve(1, 0, 1, 3);
  for (int rows = 2; rows <= 60; ++rows) serve(rows, 4, rows + 1, 3 + 0.1 * rows);
  EXPECT_LT(Room(budget), Ms(10 - 8) - Margin(10));  // 61 rows take 9 ms
}

// A prompt's first token comes with the pass, whatever else the step does after it.
TEST_F(PromptRowsTest, TokensOfAPassWithoutDecodingRowsCountFromThere) {
  SliceBudget budget(Target(30));
  for (int i = 0; i < 20; ++i) Serve(budget, Ms(5));
  ServedStep step;
  step.began = now_;
  step.decoded = now_ + Ms(5);
  step.ended = now_ = now_ + Ms(18);
  step.prompt_rows = 20, step.chunks = 1, step.running = 1;
  budget.OnServed(step);
  EXPECT_EQ(budget.allowance().until, step.decoded + Ms(25) - Margin(30));
}

TEST_F(PromptRowsTest, WithoutDecodingEverySizeIsTriedFirst) {
  SliceBudget budget(Target(10));
  std::vector<int64_t> sizes;
  for (int i = 0; i < 11; ++i) {
    sizes.push_back(budget.PromptRows(0, 256, now_));
    Pass(budget, 0, static_cast<int32_t>(sizes.back()), 10);
  }
  EXPECT_EQ(sizes, (std::vector<int64_t>{256, 192, 128, 96, 64, 48, 32, 24, 16, 256, 256}));
}

TEST_F(PromptRowsTest, ALargerSizeIsTriedOnceInAWhile) {
  SliceBudgetOptions options = Target(10);
  options.patience_steps = 7;
  SliceBudget budget(options);
  Teach(budget);
  Pass(budget, 0, 64, 20);  // a stall
  EXPECT_LT(budget.PromptRows(10, 246, now_), 54);
  int tried = 0;
  for (int i = 0; i < 200; ++i) {
    const int64_t rows = budget.PromptRows(10, 246, now_);
    if (rows >= 54) ++tried;
    Pass(budget, 10, static_cast<int32_t>(rows), 4 + static_cast<double>(rows) / 15);
  }
  EXPECT_GT(tried, 3);
  EXPECT_GE(budget.PromptRows(10, 246, now_), 54);  // it was learned again
}

TEST_F(SliceBudgetTest, WithoutATargetTrainingTakesAsLongAsServing) {
  SliceBudget budget({});
  Serve(budget, Ms(4), 1, Ms(3));
  EXPECT_EQ(Room(budget), Ms(7));
  EXPECT_TRUE(budget.allowance().at_least_one);
  EXPECT_FALSE(Serve(budget, Ms(400)));
  EXPECT_EQ(Room(budget), Ms(10));
  EXPECT_EQ(budget.prefill_budget(), Ms(50));
}

// ---- The loop -----------------------------------------------------------------------------------

// A scheduler's steps: decoding takes what `decode` says of the time since the start, a prompt
// comes every `prompt_every` steps and is one chunk of 15 ms; negative: nothing is to be served.
class Loop {
 public:
  Loop(const SliceBudgetOptions& options, std::vector<FakeSlice> slices) : budget_(options) {
    auto job = std::make_unique<FakeSlicedJob>(clock_, std::move(slices));
    job_ = job.get();
    slot_.Start(*slot_.Claim(), std::move(job), std::make_shared<RecordingTrainingSink>(),
                /*publish=*/nullptr);
    pacer_.RunAlone(absl::Seconds(3), [] { return false; });
    start_ = clock_.now();
    StartCounting();
  }

  void Run(absl::Duration time, const std::function<absl::Duration(absl::Duration)>& decode,
           int prompt_every = 0) {
    const absl::Time end = clock_.now() + time;
    for (int64_t i = 0; clock_.now() < end; ++i) {
      const absl::Duration took = decode(clock_.now() - start_);
      if (took < absl::ZeroDuration()) {
        budget_.OnIdle();
        last_token_ = absl::InfinitePast();
        pacer_.RunAlone(Ms(20), [] { return false; });
        continue;
      }
      Step(took, prompt_every > 0 && i % prompt_every == 0);
    }
  }
  // Tokens wait at most this long in a share `q` of the steps.
  absl::Duration Quantile(double q) const {
    std::vector<absl::Duration> sorted = waits_;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<size_t>(std::ceil(q * static_cast<double>(sorted.size()))) - 1];
  }
  double ShareLate(absl::Duration target) const {
    const auto late = std::count_if(waits_.begin(), waits_.end(),
                                    [&](absl::Duration wait) { return wait > target; });
    return static_cast<double>(late) / static_cast<double>(waits_.size());
  }
  // What training did of what it would have done alone, from StartCounting() to now.
  double TrainingShare() const {
    return absl::FDivDuration(job_->busy() - counted_busy_, clock_.now() - counted_since_);
  }
  void StartCounting() {
    counted_since_ = clock_.now();
    counted_busy_ = job_->busy();
  }
  const std::vector<absl::Duration>& waits() const { return waits_; }

 private:
  void Step(absl::Duration decode, bool prompt) {
    ServedStep step{.began = clock_.now(), .decoded = {}, .ended = {}, .decode_rows = 8};
    clock_.Advance(decode + job_->ahead());  // what ran ahead takes the device from it
    step.decoded = clock_.now();
    if (last_token_ != absl::InfinitePast()) waits_.push_back(step.decoded - last_token_);
    last_token_ = step.decoded;
    step.chunks = prompt ? 1 : 0;
    if (prompt) clock_.Advance(Ms(15));
    step.ended = clock_.now();
    budget_.OnServed(step);
    budget_.OnTrained(pacer_.RunWithin(budget_.allowance()));
  }

  FakeClock clock_;
  TrainingSlot slot_;
  TrainingPacer pacer_{slot_, [this] { return clock_.now(); }, nullptr};
  SliceBudget budget_;
  FakeSlicedJob* job_ = nullptr;
  absl::Time start_, counted_since_;
  absl::Duration counted_busy_;
  absl::Time last_token_ = absl::InfinitePast();
  std::vector<absl::Duration> waits_;
};

TEST(SliceBudgetLoopTest, SteadyLoadAtATargetOf30) {
  Loop loop({.itl_target = Ms(30)}, EightBillionStep());
  loop.Run(
      absl::Seconds(60), [](absl::Duration) { return Ms(5); }, /*prompt_every=*/8);
  EXPECT_LE(loop.Quantile(0.99), Ms(30));
  // 1 of 8 steps has a chunk of 15 ms: training gets (25 * 7 + 10) of 240 ms less the margin of
  // 0.7 ms and half a slice, 0.95 ms, in each.
  EXPECT_GT(loop.TrainingShare(), 0.70);
}

TEST(SliceBudgetLoopTest, SteadyLoadAtATargetOf10) {
  Loop loop({.itl_target = Ms(10)}, EightBillionStep());
  loop.Run(absl::Seconds(60), [](absl::Duration) { return Ms(4); });
  EXPECT_LE(loop.Quantile(0.99), Ms(10));
  EXPECT_GT(loop.TrainingShare(), 0.35);
}

TEST(SliceBudgetLoopTest, NoisyDecodingStillMeetsTheTarget) {
  std::mt19937 random(7);
  std::normal_distribution<double> noise(0, 0.2);
  Loop loop({.itl_target = Ms(30)}, EightBillionStep());
  loop.Run(absl::Seconds(120), [&](absl::Duration) { return Ms(8 * std::exp(noise(random))); });
  EXPECT_LE(loop.ShareLate(Ms(30)), 0.01);
  EXPECT_LE(loop.Quantile(0.999), Ms(33));
  // The prediction is 8 ms and 3 of the mean deviation of 1.3 ms; a cycle is 8 ms and what is left.
  EXPECT_GT(loop.TrainingShare(), 0.5);
}

// From 1 to 20 requests a second and back: a pass takes 4.5, then 9 ms; then nobody is there.
TEST(SliceBudgetLoopTest, AStepOfTheLoadAndBack) {
  const auto decode = [](absl::Duration since) {
    if (since >= absl::Seconds(20)) return Ms(-1);
    return since >= absl::Seconds(5) && since < absl::Seconds(15) ? Ms(9) : Ms(4.5);
  };
  Loop loop({.itl_target = Ms(15)}, EightBillionStep());
  loop.Run(absl::Seconds(20), decode);
  EXPECT_LE(loop.ShareLate(Ms(15)), 0.01);
  EXPECT_GT(loop.waits().size(), 1000u);
  // The first pass that takes longer is late by what it takes longer; the next is not.
  int late_in_a_row = 0;
  for (const absl::Duration wait : loop.waits()) {
    late_in_a_row = wait > Ms(15) ? late_in_a_row + 1 : 0;
    ASSERT_LT(late_in_a_row, 2);
    EXPECT_LE(wait, Ms(15 + 4.5));
  }
  EXPECT_LT(loop.TrainingShare(), 0.75);
  loop.StartCounting();
  loop.Run(absl::Seconds(2), decode);
  EXPECT_GT(loop.TrainingShare(), 0.99);
}

TEST(SliceBudgetLoopTest, SlicesLongerThanTheTargetRunRarely) {
  Loop loop({.itl_target = Ms(10)}, {{{SliceKind::kBackwardGateUp, 1 << 17}, Ms(60)}});
  loop.Run(absl::Seconds(60), [](absl::Duration) { return Ms(5); });
  // One slice in 101 steps of 5 ms: 60 of 565 ms.
  EXPECT_LE(loop.ShareLate(Ms(10)), 1.0 / 100);
  EXPECT_NEAR(loop.TrainingShare(), 60.0 / 565, 0.005);
}

TEST(SliceBudgetLoopTest, WithoutATargetTrainingGetsHalf) {
  Loop loop({}, EightBillionStep());
  loop.Run(absl::Seconds(30), [](absl::Duration) { return Ms(6); });
  EXPECT_LE(loop.TrainingShare(), 0.5);
  EXPECT_GT(loop.TrainingShare(), 0.35);
}

}  // namespace
}  // namespace lorad
