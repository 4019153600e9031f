// Jobs on a device that refuses memory or stops working, on the CPU; tests/parity has the same on
// CUDA.
#include "gtest/gtest.h"
#include "tests/train/device_failure_cases.h"

namespace lorad {
namespace {

class OutOfMemoryTest : public DeviceFailureCases {
 protected:
  void SetUp() override { Use(CreateCpuBackend()); }
};

TEST_F(OutOfMemoryTest, ForTheBlock) { EachAllocationRefused("adamw_torch", "none", 2); }

TEST_F(OutOfMemoryTest, ForPagedMoments) { EachAllocationRefused("paged_adamw_8bit", "none", 3); }

TEST_F(OutOfMemoryTest, ForOffloadedActivations) {
  EachAllocationRefused("adamw_torch", "offload", 3);
}

TEST_F(OutOfMemoryTest, ForPagedMomentsAndOffloadedActivations) {
  EachAllocationRefused("paged_adamw_8bit", "offload", 4);
}

TEST_F(OutOfMemoryTest, EachPieceOfWorkOfAStepFails) {
  TrainingSpec spec = Spec("paged_adamw_8bit", "offload");
  spec.max_steps = 1;
  WorkFails(spec, /*stride=*/1);
}

TEST_F(OutOfMemoryTest, WorkFailsBetweenCheckpoints) { WorkFails(BusySpec(), /*stride=*/29); }

}  // namespace
}  // namespace lorad
