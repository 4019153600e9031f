// Jobs of every kind of optimiser: paging changes no number, 8 bits change few.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/train/job.h"
#include "engine/train/job_memory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/train/training_fixture.h"

namespace lorad {
namespace {

constexpr const char* kOptims[] = {"adamw_torch", "adamw_8bit", "paged_adamw_32bit",
                                   "paged_adamw_8bit"};

class OptimizerKindTest : public testing::Test {
 protected:
  // SmallSpec with dropout, in fresh directories, with a checkpoint after every step.
  TrainingSpec Spec(const std::string& optim) {
    TrainingSpec spec = fixture_.SmallSpec();
    spec.optim = optim;
    spec.lora.lora_dropout = 0.2;
    spec.save_steps = 1;
    spec.checkpoint_dir = fixture_.NewDir("checkpoints");
    return spec;
  }
  std::string AdapterOf(const TrainingSpec& spec) {
    const auto sink = fixture_.Run(spec);
    EXPECT_TRUE(sink->result.has_value()) << sink->error;
    return sink->result ? sink->result->adapter_id : "";
  }
  // Runs until `steps` steps are done and dies before the last one's checkpoint.
  void RunAndDie(const TrainingSpec& spec, int64_t steps) {
    fixture_.Run(spec, [&](TrainingJob&, const RecordingSink& sink) {
      return static_cast<int64_t>(sink.steps.size()) == steps;
    });
  }
  MemoryUsage Usage(MemoryTag tag) { return fixture_.backend().allocator().Usage(tag); }

  TrainingFixture fixture_{"llama-gqa"};
};

TEST_F(OptimizerKindTest, PagingChangesNoBitAndEightBitsDo) {
  std::vector<std::string> adapters;
  for (const char* optim : kOptims) adapters.push_back(AdapterOf(Spec(optim)));
  EXPECT_EQ(adapters[2], adapters[0]);
  EXPECT_EQ(adapters[3], adapters[1]);
  EXPECT_NE(adapters[1], adapters[0]);
}

TEST_F(OptimizerKindTest, EightBitsLearnAsFp32Does) {
  std::vector<std::vector<StepReport>> steps;
  for (const char* optim : {"adamw_torch", "adamw_8bit"}) {
    TrainingSpec spec = Spec(optim);
    spec.num_train_epochs = 12;
    spec.save_steps = 1000;
    const auto sink = fixture_.Run(spec);
    ASSERT_TRUE(sink->result.has_value()) << sink->error;
    steps.push_back(sink->steps);
  }
  ASSERT_EQ(steps[0].size(), steps[1].size());
  // No bound follows from the format; the largest difference was 0.0015 of the gain.
  const double gain = steps[0].front().loss - steps[0].back().loss;
  ASSERT_GT(gain, 0.3);
  for (size_t i = 0; i < steps[0].size(); ++i)
    EXPECT_NEAR(steps[1][i].loss, steps[0][i].loss, 0.01 * gain) << "step " << i + 1;
}

TEST_F(OptimizerKindTest, KilledAfterAStepItEndsWithTheSameAdapter) {
  for (const char* optim : {"adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"}) {
    TrainingSpec spec = Spec(optim);
    spec.max_steps = 6;
    const auto whole = fixture_.Run(spec);
    ASSERT_TRUE(whole->result.has_value()) << whole->error;
    for (const int64_t kill : {2, 5, 6}) {
      SCOPED_TRACE(testing::Message() << optim << " killed after step " << kill);
      spec.output_dir = fixture_.NewDir("out");
      spec.checkpoint_dir = fixture_.NewDir("checkpoints");
      RunAndDie(spec, kill);
      const auto resumed = fixture_.Run(spec);
      ASSERT_TRUE(resumed->result.has_value()) << resumed->error;
      EXPECT_EQ(resumed->resumed_from, kill - 1);
      EXPECT_EQ(resumed->result->adapter_id, whole->result->adapter_id);
    }
  }
}

TEST_F(OptimizerKindTest, RefusesACheckpointOfAnotherKind) {
  const auto refused = [&](const char* was, const char* now, const char* message) {
    TrainingSpec spec = Spec(was);
    RunAndDie(spec, 3);
    spec.optim = now;
    EXPECT_THAT(fixture_.Run(spec)->error,
                StatusIs(absl::StatusCode::kFailedPrecondition, message));
    spec.optim = was;
    EXPECT_EQ(fixture_.Run(spec)->resumed_from, 2) << "the refusal changed the checkpoint";
  };
  refused("adamw_torch", "adamw_8bit", "optim was unset and is now adamw_8bit");
  refused("adamw_8bit", "adamw_torch", "optim was adamw_8bit and is now unset");
  refused("adamw_8bit", "paged_adamw_8bit", "optim was adamw_8bit and is now paged_adamw_8bit");
}

TEST_F(OptimizerKindTest, PlansWhatItTakes) {
  std::vector<TrainingPlan> plans;
  for (const char* optim : kOptims) {
    SCOPED_TRACE(optim);
    TrainingFixture fixture("llama-gqa");  // peaks of its own
    TrainingSpec spec = fixture.SmallSpec();
    spec.optim = optim;
    ASSERT_OK_AND_ASSIGN(const auto job,
                         TrainingJob::Create(spec, fixture.model(), nullptr, fixture.backend()));
    const TrainingPlan& plan = plans.emplace_back(job->plan());
    EXPECT_EQ(plan.peak_bytes, plan.adapter_bytes + plan.activation_bytes + plan.workspace_bytes);
    const Allocator& allocator = fixture.backend().allocator();
    EXPECT_EQ(allocator.Usage(MemoryTag::kPinned).peak_bytes, 0) << "planning took memory";
    ASSERT_TRUE(fixture.Run(spec)->result.has_value());
    EXPECT_EQ(allocator.Usage(MemoryTag::kTraining).peak_bytes, plan.peak_bytes);
    EXPECT_EQ(allocator.Usage(MemoryTag::kPinned).peak_bytes, plan.pinned_bytes);
    EXPECT_EQ(allocator.Usage(MemoryTag::kPinned).used_bytes, 0);
  }
  const TrainingPlan &full = plans[0], &eight = plans[1], &paged = plans[2], &paged8 = plans[3];
  // The snapshot: all but the gradients.
  EXPECT_EQ(full.pinned_bytes, full.adapter_bytes / 4 * 3);
  const int64_t moments = paged.pinned_bytes - full.pinned_bytes;
  const int64_t moments8 = paged8.pinned_bytes - eight.pinned_bytes;
  EXPECT_EQ(moments, 2 * 4 * full.trainable_parameters);  // of sizes without padding
  EXPECT_EQ(paged.adapter_bytes + moments, full.adapter_bytes);
  EXPECT_EQ(paged8.adapter_bytes + moments8, eight.adapter_bytes);
  EXPECT_LT(eight.adapter_bytes, 0.7 * full.adapter_bytes);  // (2 * 4 + 2) / (4 * 4), and scales
  EXPECT_LT(moments8, 0.3 * moments);
}

TEST_F(OptimizerKindTest, PinnedMemoryIsNotTheDevices) {
  Backend& backend = fixture_.backend();
  ASSERT_OK_AND_ASSIGN(const DeviceBuffer pinned, backend.AllocatePinned(4096));
  EXPECT_EQ(Usage(MemoryTag::kPinned).used_bytes, 4096);
  ASSERT_EQ(Usage(MemoryTag::kTraining).limit_bytes, 0);
  int64_t room = backend.info().memory_bytes;
  for (const MemoryTag tag :
       {MemoryTag::kWeights, MemoryTag::kKvCache, MemoryTag::kAdapters, MemoryTag::kWorkspace})
    room -= Usage(tag).used_bytes;
  EXPECT_EQ(TrainingRoom(backend), room);
}

TEST_F(OptimizerKindTest, RefusesAnUnknownOneBeforeAnythingStarts) {
  TrainingSpec spec = Spec("adafactor");
  spec.train_path = "/absent.jsonl";  // not looked at yet
  EXPECT_THAT(fixture_.Run(spec)->error,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "optim is \"adafactor\"; known are adamw_torch, adamw_8bit, "
                       "paged_adamw_32bit, paged_adamw_8bit"));
}

}  // namespace
}  // namespace lorad
