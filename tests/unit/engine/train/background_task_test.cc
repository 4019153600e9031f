#include "engine/train/background_task.h"

#include <atomic>
#include <memory>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

TEST(BackgroundTaskTest, GivesEachResultOnce) {
  BackgroundTask task;
  for (const absl::Status& result : {absl::OkStatus(), absl::DataLossError("the disk is full")}) {
    absl::Notification go;
    task.Start([&]() -> absl::Status {
      go.WaitForNotification();
      return result;
    });
    EXPECT_EQ(task.Await(absl::ZeroDuration()), std::nullopt);
    EXPECT_EQ(task.Await(absl::Milliseconds(1)), std::nullopt);
    go.Notify();
    const std::optional<absl::Status> done = task.Await(absl::InfiniteDuration());
    ASSERT_TRUE(done.has_value());
    EXPECT_EQ(*done, result);
  }
}

TEST(BackgroundTaskTest, ItsEndWaitsForTheWork) {
  std::atomic<bool> done = false;
  {
    BackgroundTask task;
    task.Start([&]() -> absl::Status {
      absl::SleepFor(absl::Milliseconds(20));
      done = true;
      return absl::OkStatus();
    });
  }
  EXPECT_TRUE(done);
  BackgroundTask never_started;
}

}  // namespace
}  // namespace lorad
