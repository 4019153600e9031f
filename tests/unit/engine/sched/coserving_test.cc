// A training job and requests on one engine thread; and a device that fails under both.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/train/job.h"
#include "gtest/gtest.h"
#include "tests/support/failing_backend.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/engine/sched/recording_training_sink.h"
#include "tests/unit/engine/sched/serving_harness.h"

namespace lorad {
namespace {

using absl::StatusCode;

class CoservingTest : public testing::Test {
 protected:
  // Claims the slot, makes the job and hands it over; its id.
  uint64_t Start(ServingHarness& harness, const std::string& output,
                 std::shared_ptr<RecordingTrainingSink> sink) {
    const absl::StatusOr<uint64_t> id = harness.scheduler->training().Claim();
    EXPECT_OK(id);
    auto job = TrainingJob::Create(SmallTrainingSpec(dir_.path(), output), harness.model, nullptr,
                                   *harness.backend);
    EXPECT_OK(job);
    EXPECT_OK(harness.scheduler->StartTraining({*id, *std::move(job), std::move(sink)}));
    return *id;
  }
  // The adapter that the job gives when it has the engine to itself.
  std::string SoloAdapter() {
    ServingHarness harness;
    const auto sink = std::make_shared<RecordingTrainingSink>();
    Start(harness, "solo", sink);
    harness.RunUntil(sink->ended);
    EXPECT_TRUE(sink->result.has_value()) << sink->error;
    EXPECT_EQ(harness.UsedBytes(MemoryTag::kTraining), 0);
    return sink->result->adapter_id;
  }

  TempDir dir_;
};

TEST_F(CoservingTest, DecodingGoesOnBetweenSlices) {
  const std::string expected_adapter = SoloAdapter();
  ServingHarness harness;
  const auto expected = harness.Solo(ServingHarness::Greedy(harness.Prompt(0), 60))->ids;

  const auto sink = std::make_shared<RecordingTrainingSink>();
  Start(harness, "together", sink);
  const auto request = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 60));
  int steps_while_training = 0;
  for (size_t tokens = 1; tokens <= 60; ++tokens) {
    harness.scheduler->RunOneStep();
    ASSERT_EQ(request->ids.size(), tokens);  // one token in every step, whatever training does
    steps_while_training += harness.scheduler->training().active();
  }
  EXPECT_GT(steps_while_training, 10);
  harness.RunUntil(sink->ended);
  EXPECT_EQ(request->ids, expected);
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  EXPECT_EQ(sink->result->adapter_id, expected_adapter);
  EXPECT_EQ(sink->steps.size(), 6);
  EXPECT_EQ(harness.UsedBytes(MemoryTag::kTraining), 0);
}

// Neither a target nor how slices fall between tokens changes a bit of the adapter or the answers.
TEST_F(CoservingTest, ATargetChangesNoBits) {
  const std::string expected_adapter = SoloAdapter();
  for (const double target_ms : {0.5, 3.0, 200.0}) {  // too short, short and long for this model
    HarnessOptions options;
    options.training = {.itl_target = absl::Milliseconds(target_ms), .patience_steps = 3};
    ServingHarness harness(std::move(options));
    const auto expected = harness.Solo(ServingHarness::Greedy(harness.Prompt(0), 60))->ids;
    const auto sink = std::make_shared<RecordingTrainingSink>();
    Start(harness, absl::StrCat("target", target_ms), sink);
    const auto request = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 60));
    for (size_t tokens = 1; tokens <= 60; ++tokens) {
      harness.scheduler->RunOneStep();
      ASSERT_EQ(request->ids.size(), tokens);
    }
    EXPECT_GE(harness.slices, 60 / 4 - 1);  // one in four steps at least
    harness.RunUntil(sink->ended);
    EXPECT_EQ(request->ids, expected);
    ASSERT_TRUE(sink->result.has_value()) << sink->error;
    EXPECT_EQ(sink->result->adapter_id, expected_adapter);
  }
}

TEST_F(CoservingTest, TheNewAdapterServesAtOnce) {
  ServingHarness harness;
  const auto sink = std::make_shared<RecordingTrainingSink>();
  Start(harness, "fresh", sink);
  harness.RunUntil(sink->ended);
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  EXPECT_EQ(harness.Register(sink->result->output_dir), sink->result->adapter_id);
  const auto answer =
      harness.Solo(ServingHarness::Greedy(harness.Prompt(0), 20, sink->result->adapter_id));
  EXPECT_TRUE(answer->finished(FinishReason::kLength));
}

TEST_F(CoservingTest, OneJobAtATimeAndTheSlotIsFreeForTheLastWord) {
  ServingHarness harness;
  TrainingSlot& slot = harness.scheduler->training();
  const auto sink = std::make_shared<RecordingTrainingSink>();
  bool free_at_end = false;
  sink->at_end = [&] { free_at_end = !slot.claimed(); };
  Start(harness, "one", sink);
  EXPECT_THAT(slot.Claim(), StatusIs(StatusCode::kFailedPrecondition, "one job runs at a time"));
  harness.RunUntil(sink->ended);
  EXPECT_TRUE(free_at_end);
  const auto next = std::make_shared<RecordingTrainingSink>();
  Start(harness, "two", next);
  harness.RunUntil(next->ended);
  ASSERT_TRUE(next->result.has_value());
  EXPECT_EQ(next->result->adapter_id, sink->result->adapter_id);
}

TEST_F(CoservingTest, StoppedWithACheckpointAndResumed) {
  const std::string expected_adapter = SoloAdapter();
  ServingHarness harness;
  const auto first = std::make_shared<RecordingTrainingSink>();
  const uint64_t id = Start(harness, "resumed", first);
  while (first->steps.size() < 2) harness.scheduler->RunOneStep();
  harness.scheduler->StopTraining({id + 1, true});  // unknown: no effect
  harness.scheduler->StopTraining({id, true});
  harness.RunUntil(first->ended);
  ASSERT_TRUE(first->stopped_at.has_value()) << first->error;
  EXPECT_GE(*first->stopped_at, 2);
  EXPECT_LT(*first->stopped_at, 6);
  const auto second = std::make_shared<RecordingTrainingSink>();
  Start(harness, "resumed", second);
  harness.RunUntil(second->ended);
  ASSERT_TRUE(second->result.has_value()) << second->error;
  EXPECT_EQ(second->resumed_from, *first->stopped_at);
  EXPECT_EQ(second->result->adapter_id, expected_adapter);
}

TEST_F(CoservingTest, DrainStopsTheJobWithACheckpoint) {
  ServingHarness harness;
  const auto sink = std::make_shared<RecordingTrainingSink>();
  Start(harness, "drained", sink);
  while (sink->steps.empty()) harness.scheduler->RunOneStep();
  harness.scheduler->Drain(absl::Now());
  harness.scheduler->Run();
  ASSERT_TRUE(sink->stopped_at.has_value()) << sink->error;
  EXPECT_GE(*sink->stopped_at, 1);
}

// ---- A device that fails ------------------------------------------------------------------------

// Lack of memory is the job's trouble alone.
TEST_F(CoservingTest, AJobWithoutMemoryEndsAndServingGoesOn) {
  const std::string expected_adapter = SoloAdapter();
  auto owned = std::make_unique<FailingBackend>(CreateCpuBackend());
  FailingBackend* const backend = owned.get();
  HarnessOptions options;
  options.backend = std::move(owned);
  ServingHarness harness(std::move(options));
  const auto greedy = ServingHarness::Greedy(harness.Prompt(0), 30);
  const auto expected = harness.Solo(greedy)->ids;

  const auto request = harness.Submit(greedy);
  while (request->ids.size() < 5) harness.scheduler->RunOneStep();
  backend->FailAllocation(1, {MemoryTag::kTraining});
  const auto refused = std::make_shared<RecordingTrainingSink>();
  Start(harness, "refused", refused);
  harness.RunUntil(refused->ended);
  EXPECT_THAT(refused->error, StatusIs(StatusCode::kResourceExhausted, "training memory: "));
  EXPECT_TRUE(harness.scheduler->healthy());
  EXPECT_FALSE(harness.scheduler->training().claimed());
  EXPECT_EQ(harness.UsedBytes(MemoryTag::kTraining), 0);

  const auto next = std::make_shared<RecordingTrainingSink>();
  Start(harness, "next", next);
  harness.RunUntil(next->ended);
  ASSERT_TRUE(next->result.has_value()) << next->error;
  EXPECT_EQ(next->result->adapter_id, expected_adapter);
  while (!request->ended()) harness.scheduler->RunOneStep();
  EXPECT_EQ(request->ids, expected);
}

TEST_F(CoservingTest, ADeviceErrorEndsEverything) {
  auto owned = std::make_unique<FailingBackend>(CreateCpuBackend());
  FailingBackend* const backend = owned.get();
  HarnessOptions options;
  options.max_running = 1;
  options.backend = std::move(owned);
  ServingHarness harness(std::move(options));
  const auto sink = std::make_shared<RecordingTrainingSink>();
  Start(harness, "broken", sink);
  const auto running = harness.Submit(ServingHarness::Greedy(harness.Prompt(0), 50));
  const auto waiting = harness.Submit(ServingHarness::Greedy(harness.Prompt(1), 50));
  harness.scheduler->RunOneStep();
  EXPECT_TRUE(harness.scheduler->healthy());
  backend->BreakWork();
  harness.scheduler->RunOneStep();
  for (const absl::Status& status : {running->error, waiting->error, sink->error})
    EXPECT_THAT(status, StatusIs(StatusCode::kInternal, WorkGate::kMessage));
  EXPECT_FALSE(harness.scheduler->healthy());
  EXPECT_FALSE(harness.scheduler->training().claimed());
  EXPECT_EQ(harness.cache->used_pages(), 0);
  EXPECT_THAT(harness.scheduler->Generate(ServingHarness::Greedy(harness.Prompt(0), 5),
                                          absl::InfiniteFuture(), running),
              StatusIs(StatusCode::kUnavailable, "must be restarted"));
  EXPECT_FALSE(harness.scheduler->RunOneStep());
  harness.scheduler->Drain(absl::InfiniteFuture());
  harness.scheduler->Run();  // still ends
}

}  // namespace
}  // namespace lorad
