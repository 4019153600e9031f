#include "engine/train/slice_marks.h"

#include <memory>

#include "absl/time/clock.h"
#include "engine/device/backend.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

class SliceMarksTest : public testing::Test {
 protected:
  void Slice(SliceMarks& marks, absl::Duration time) {
    ASSERT_OK(marks.Begin(*stream_));
    absl::SleepFor(time);  // the CPU's work is done at the call
    ASSERT_OK(marks.End(*stream_));
  }

  std::unique_ptr<Backend> backend_ = CreateCpuBackend();
  std::unique_ptr<Stream> stream_ = *backend_->CreateStream();
};

TEST_F(SliceMarksTest, TimesEachSliceByItself) {
  ASSERT_OK_AND_ASSIGN(SliceMarks marks, SliceMarks::Create(*backend_));
  const absl::Time began = absl::Now();
  Slice(marks, absl::Milliseconds(8));
  Slice(marks, absl::Milliseconds(2));
  const absl::Duration both = absl::Now() - began;
  ASSERT_OK_AND_ASSIGN(const absl::Duration first, marks.AwaitOldest());
  ASSERT_OK_AND_ASSIGN(const absl::Duration second, marks.AwaitOldest());
  EXPECT_GE(first, absl::Milliseconds(8));
  EXPECT_GE(second, absl::Milliseconds(2));
  EXPECT_LE(first + second, both);
}

TEST_F(SliceMarksTest, TheOldestMakeRoom) {
  ASSERT_OK_AND_ASSIGN(SliceMarks marks, SliceMarks::Create(*backend_));
  constexpr int64_t kMost = SlicedJob::kMaxQueuedSlices;
  Slice(marks, absl::ZeroDuration());
  Slice(marks, absl::Milliseconds(5));
  for (int64_t i = 1; i < kMost; ++i) Slice(marks, absl::ZeroDuration());
  // The first was waited for in between, so the oldest is the long one.
  ASSERT_OK_AND_ASSIGN(const absl::Duration oldest, marks.AwaitOldest());
  EXPECT_GE(oldest, absl::Milliseconds(5));
  for (int64_t i = 1; i < kMost; ++i) EXPECT_OK(marks.AwaitOldest());
}

}  // namespace
}  // namespace lorad
