// What a job does beside its slices: copies, checkpoints, publication and output, for none of which
// the owner of the device waits.
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/io/file.h"
#include "gtest/gtest.h"
#include "tests/support/deferred_backend.h"
#include "tests/support/status_matchers.h"
#include "tests/train/training_fixture.h"

namespace lorad {
namespace {

class BackgroundTest : public testing::Test {
 protected:
  BackgroundTest() {
    auto backend = std::make_unique<DeferredBackend>(CreateCpuBackend());
    device_ = backend.get();
    fixture_ = std::make_unique<TrainingFixture>("llama-gqa", std::move(backend));
    spec_ = fixture_->SmallSpec();
    spec_.max_steps = 3;
  }
  void Start(PublishAdapter publish = nullptr) {
    ASSERT_OK_AND_ASSIGN(
        job_, TrainingJob::Create(spec_, fixture_->model(), nullptr, fixture_->backend()));
    ASSERT_OK(job_->Start(sink_, std::move(publish)));
  }
  void Finish() {
    const absl::Time end = absl::Now() + absl::Seconds(60);
    while (job_->Advance() == TrainingState::kRunning && absl::Now() < end) {
    }
    ASSERT_EQ(sink_->ends, 1);
  }
  // The id that a publisher gives: the content's, as the store's.
  static absl::StatusOr<std::string> Digest(const AdapterConfig&,
                                            absl::Span<const AdapterModuleView> modules) {
    return AdapterDigest(modules);
  }

  DeferredBackend* device_;
  std::unique_ptr<TrainingFixture> fixture_;
  TrainingSpec spec_;
  const std::shared_ptr<RecordingSink> sink_ = std::make_shared<RecordingSink>();
  std::unique_ptr<TrainingJob> job_;
};

TEST_F(BackgroundTest, NobodyWaitsForTheCopiesOfACheckpoint) {
  const std::string expected = fixture_->Run(spec_)->result->adapter_id;
  spec_.output_dir = fixture_->NewDir("out");
  spec_.checkpoint_dir = fixture_->NewDir("checkpoints");
  spec_.save_steps = 1;
  Start();
  device_->HoldEvents(true);
  for (int i = 0; i < 100000 && !job_->waiting(); ++i) job_->Advance();
  ASSERT_TRUE(job_->waiting());
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(job_->Advance(), TrainingState::kRunning);
    EXPECT_TRUE(job_->waiting());
  }
  EXPECT_EQ(sink_->steps.size(), 1u);
  EXPECT_TRUE(sink_->checkpoints.empty());
  device_->HoldEvents(false);
  job_->Advance();
  EXPECT_FALSE(job_->waiting());
  Finish();
  ASSERT_TRUE(sink_->result.has_value()) << sink_->error;
  EXPECT_EQ(sink_->result->adapter_id, expected);
  ASSERT_EQ(sink_->checkpoints.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(sink_->checkpoints[i].step, i + 1);
}

TEST_F(BackgroundTest, TheResultIsPublishedBeforeItHasFiles) {
  spec_.checkpoint_dir = fixture_->NewDir("checkpoints");
  absl::Notification go;
  std::atomic<bool> had_files = false;
  Start([&](const AdapterConfig& config, absl::Span<const AdapterModuleView> modules) {
    go.WaitForNotification();
    had_files = PathExists(JoinPath(spec_.output_dir, "adapter_config.json"));
    EXPECT_EQ(config.r, spec_.lora.r);
    return Digest(config, modules);
  });
  for (int i = 0; i < 100000 && !job_->waiting(); ++i) job_->Advance();
  for (int i = 0; i < 100; ++i) {  // the publisher holds up nobody but the end
    EXPECT_EQ(job_->Advance(), TrainingState::kRunning);
    EXPECT_TRUE(job_->waiting());
  }
  EXPECT_EQ(sink_->steps.size(), 3u);
  EXPECT_TRUE(sink_->publications.empty());
  go.Notify();
  Finish();
  ASSERT_TRUE(sink_->result.has_value()) << sink_->error;
  EXPECT_FALSE(had_files);
  ASSERT_EQ(sink_->publications.size(), 1u);
  EXPECT_EQ(sink_->publications[0].adapter_id, sink_->result->adapter_id);
  EXPECT_EQ(sink_->publications[0].step, 3);
  EXPECT_GT(sink_->publications[0].seconds, 0);
}

TEST_F(BackgroundTest, TheBestAdapterIsPublished) {
  spec_.eval_path = fixture_->WriteRandomRows("eval.jsonl", 6, 2);
  spec_.eval_steps = 1;
  spec_.max_steps = 6;
  spec_.learning_rate = 0.5;  // so that the best is not the last
  Start(Digest);
  Finish();
  ASSERT_TRUE(sink_->result.has_value()) << sink_->error;
  EXPECT_LT(sink_->result->best_step, 6);
  ASSERT_EQ(sink_->publications.size(), 1u);
  EXPECT_EQ(sink_->publications[0].adapter_id, sink_->result->adapter_id);
  EXPECT_EQ(sink_->publications[0].step, sink_->result->best_step);
}

TEST_F(BackgroundTest, CheckpointsArePublishedOnRequest) {
  spec_.checkpoint_dir = fixture_->NewDir("checkpoints");
  spec_.save_steps = 1;
  spec_.serve_checkpoints = true;
  Start(Digest);
  Finish();
  ASSERT_TRUE(sink_->result.has_value()) << sink_->error;
  ASSERT_GE(sink_->publications.size(), 2u);
  int finals = 0;
  for (const PublicationReport& report : sink_->publications) {
    finals += report.final;
    if (report.final) {
      EXPECT_EQ(report.adapter_id, sink_->result->adapter_id);
      continue;
    }
    const auto same_step = [&](const CheckpointReport& c) { return c.step == report.step; };
    const auto checkpoint =
        std::find_if(sink_->checkpoints.begin(), sink_->checkpoints.end(), same_step);
    ASSERT_NE(checkpoint, sink_->checkpoints.end());
    EXPECT_EQ(checkpoint->adapter_id, report.adapter_id);
  }
  EXPECT_EQ(finals, 1);
}

// The checkpoint of the last step is due when the best adapter has been published as the result.
TEST_F(BackgroundTest, NoCheckpointIsPublishedOverTheResult) {
  spec_.eval_path = fixture_->WriteRandomRows("eval.jsonl", 6, 2);
  spec_.eval_steps = 1;
  spec_.max_steps = 6;
  spec_.learning_rate = 0.5;  // so that the best is not the last
  spec_.checkpoint_dir = fixture_->NewDir("checkpoints");
  spec_.save_steps = 1;
  spec_.serve_checkpoints = true;
  Start(Digest);
  const auto final_published = [this] {
    return !sink_->publications.empty() && sink_->publications.back().final;
  };
  const absl::Time end = absl::Now() + absl::Seconds(60);
  while (sink_->steps.size() < 6u && absl::Now() < end) job_->Advance();
  device_->HoldEvents(true);  // keeps the last checkpoint's copies until the result serves
  while (!final_published() && absl::Now() < end) job_->Advance();
  ASSERT_TRUE(final_published());
  device_->HoldEvents(false);
  Finish();
  ASSERT_TRUE(sink_->result.has_value()) << sink_->error;
  EXPECT_LT(sink_->result->best_step, 6);
  EXPECT_EQ(sink_->checkpoints.back().step, 6);
  EXPECT_GT(sink_->publications.size(), 1u);
  EXPECT_TRUE(final_published());
  EXPECT_EQ(sink_->publications.back().adapter_id, sink_->result->adapter_id);
}

TEST_F(BackgroundTest, AFailedPublicationIsAWarning) {
  Start([](const AdapterConfig&, absl::Span<const AdapterModuleView>) {
    return absl::ResourceExhaustedError("no room");
  });
  Finish();
  ASSERT_TRUE(sink_->result.has_value()) << sink_->error;
  EXPECT_TRUE(sink_->publications.empty());
  ASSERT_EQ(sink_->warnings.size(), 1u);
  EXPECT_NE(sink_->warnings[0].find("no room"), std::string::npos);
}

TEST_F(BackgroundTest, ACheckpointThatCannotBeWrittenFailsTheJob) {
  spec_.checkpoint_dir = fixture_->NewDir("checkpoints");
  spec_.save_steps = 1;
  Start();
  // Something else has taken the place of the first checkpoint's directory.
  std::filesystem::remove_all(spec_.checkpoint_dir);
  std::ofstream(spec_.checkpoint_dir) << "a file";
  Finish();
  EXPECT_FALSE(sink_->error.ok());
  EXPECT_NE(sink_->error.message().find("checkpoints"), std::string::npos) << sink_->error;
  EXPECT_TRUE(sink_->checkpoints.empty());
  for (int tag = 0; tag < kNumMemoryTags; ++tag) {
    if (static_cast<MemoryTag>(tag) == MemoryTag::kWeights) continue;
    EXPECT_EQ(device_->allocator().Usage(static_cast<MemoryTag>(tag)).used_bytes, 0);
  }
}

TEST_F(BackgroundTest, ADroppedJobEndsWhenNothingIsWrittenAnyMore) {
  absl::Notification go;
  Start([&](const AdapterConfig& config, absl::Span<const AdapterModuleView> modules) {
    go.WaitForNotification();
    return Digest(config, modules);
  });
  for (int i = 0; i < 100000 && !job_->waiting(); ++i) job_->Advance();
  job_->RequestStop(/*checkpoint=*/false);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(job_->Advance(), TrainingState::kRunning);
  go.Notify();
  Finish();
  EXPECT_EQ(sink_->stopped_at, -1);
}

TEST_F(BackgroundTest, AStopThatComesWhileTheOutputIsWrittenComesTooLate) {
  Start();
  for (int i = 0; i < 100000 && !job_->waiting(); ++i) job_->Advance();
  ASSERT_EQ(sink_->steps.size(), 3u);
  job_->Advance();  // begins to write
  job_->RequestStop(/*checkpoint=*/true);
  Finish();
  ASSERT_TRUE(sink_->result.has_value()) << sink_->error;
  EXPECT_FALSE(sink_->stopped_at.has_value());
}

TEST_F(BackgroundTest, AStopBeforeThatWaitsForThePublication) {
  spec_.checkpoint_dir = fixture_->NewDir("checkpoints");
  absl::Notification go;
  Start([&](const AdapterConfig& config, absl::Span<const AdapterModuleView> modules) {
    go.WaitForNotification();
    return Digest(config, modules);
  });
  for (int i = 0; i < 100000 && !job_->waiting(); ++i) job_->Advance();
  job_->RequestStop(/*checkpoint=*/true);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(job_->Advance(), TrainingState::kRunning);
  go.Notify();
  Finish();
  EXPECT_EQ(sink_->stopped_at, 3);
  EXPECT_EQ(sink_->publications.size(), 1u);
  EXPECT_EQ(sink_->checkpoints.size(), 1u);
}

}  // namespace
}  // namespace lorad
