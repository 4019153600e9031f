#include "engine/train/schedule.h"

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

// A rate of 1 shows transformers' lambda itself: the values are what its get_scheduler gives for
// these arguments (transformers/optimization.py, _get_*_schedule_with_warmup_lr_lambda), to 17
// digits, step 0 first and one past the end.
struct Case {
  const char* type;
  int64_t warmup, steps;
  std::vector<double> rates;
};

TEST(LearningRateScheduleTest, EqualsTransformers) {
  const Case cases[] = {
      {"constant", 0, 3, {1, 1, 1, 1}},
      {"constant_with_warmup", 2, 4, {0, 0.5, 1, 1, 1}},
      {"linear", 0, 4, {1, 0.75, 0.5, 0.25, 0}},
      {"linear", 2, 6, {0, 0.5, 1, 0.75, 0.5, 0.25, 0}},
      // More warm-up than steps: the peak is never reached.
      {"linear", 5, 3, {0, 0.2, 0.4, 0.6}},
      {"cosine", 0, 4, {1, 0.85355339059327373, 0.5, 0.14644660940672627, 0}},
      {"cosine", 3, 6, {0, 0.33333333333333331, 0.66666666666666663, 1, 0.75, 0.25, 0}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(c.type) + " " + std::to_string(c.warmup));
    ASSERT_OK_AND_ASSIGN(const LearningRateSchedule schedule,
                         LearningRateSchedule::Create(c.type, 1, c.warmup, 0, c.steps));
    // cos() may differ by an ulp or two between libraries.
    for (size_t s = 0; s < c.rates.size(); ++s)
      EXPECT_NEAR(schedule.Rate(static_cast<int64_t>(s)), c.rates[s], 1e-15) << "step " << s;
  }
}

TEST(LearningRateScheduleTest, ScalesTheRate) {
  ASSERT_OK_AND_ASSIGN(const LearningRateSchedule schedule,
                       LearningRateSchedule::Create("linear", 2e-4, 0, 0, 10));
  EXPECT_DOUBLE_EQ(schedule.Rate(0), 2e-4);
  EXPECT_DOUBLE_EQ(schedule.Rate(5), 1e-4);
}

TEST(LearningRateScheduleTest, WarmupRatioRoundsUpAndStepsWin) {
  ASSERT_OK_AND_ASSIGN(const LearningRateSchedule ratio,
                       LearningRateSchedule::Create("linear", 1, 0, 0.03, 101));
  EXPECT_EQ(ratio.warmup_steps(), 4);  // ceil(3.03)
  ASSERT_OK_AND_ASSIGN(const LearningRateSchedule both,
                       LearningRateSchedule::Create("linear", 1, 7, 0.5, 100));
  EXPECT_EQ(both.warmup_steps(), 7);
}

TEST(LearningRateScheduleTest, NamesWhatIsWrong) {
  using S = LearningRateSchedule;
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(S::Create("cosin", 1, 0, 0, 1),
              StatusIs(kInvalid, "lr_scheduler_type is \"cosin\"; known are constant, "));
  EXPECT_THAT(S::Create("linear", 1, -1, 0, 1), StatusIs(kInvalid, "warmup_steps is -1"));
  EXPECT_THAT(S::Create("linear", 1, 0, 1.5, 1), StatusIs(kInvalid, "warmup_ratio is 1.5"));
  EXPECT_THAT(S::Create("linear", 1, 0, std::nan(""), 1), StatusIs(kInvalid, "warmup_ratio is"));
  EXPECT_THAT(S::Create("constant", 1, 10, 0, 1), StatusIs(kInvalid, "warmup_steps is 10"));
  EXPECT_THAT(S::Create("constant", 1, 0, 0.1, 1), StatusIs(kInvalid, "use constant_with_warmup"));
}

}  // namespace
}  // namespace lorad
