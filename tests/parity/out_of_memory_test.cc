// Jobs on a GPU that refuses memory, by injection and because it is full, or that stops working.
// Takes almost all of the GPU's memory: nothing else may run there.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/parity/skip_without_gpu.h"
#include "tests/train/device_failure_cases.h"

namespace lorad {
namespace {

class CudaOutOfMemoryTest : public DeviceFailureCases {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> cuda = CreateCudaBackend(0);
    SKIP_WITHOUT_GPU(cuda.status());
    Use(*std::move(cuda));
  }

  // Two micro-batches so large that what the job needs dwarfs what CUDA takes for itself.
  TrainingSpec LargeSpec() {
    TrainingSpec spec = Spec("paged_adamw_8bit", "none");
    spec.train_path = fixture_->WriteRandomRows("large.jsonl", 2000, 3);
    spec.max_seq_length = 256;
    spec.micro_batch_size = 64;
    return spec;
  }

  // Takes memory until the device has no block of `bytes` left.
  std::vector<DeviceBuffer> Fill(int64_t bytes) {
    std::vector<DeviceBuffer> taken;
    for (int64_t size = std::max(backend_->info().memory_bytes, bytes);;) {
      absl::StatusOr<DeviceBuffer> block =
          backend_->allocator().Allocate(size, MemoryTag::kWorkspace);
      if (block.ok()) {
        taken.push_back(*std::move(block));
        continue;
      }
      EXPECT_THAT(block, StatusIs(absl::StatusCode::kResourceExhausted, "workspace memory: "));
      if (size == bytes || !absl::IsResourceExhausted(block.status())) return taken;
      size = std::max(size / 2, bytes);
    }
  }
};

TEST_F(CudaOutOfMemoryTest, ForTheBlock) { EachAllocationRefused("adamw_torch", "none", 2); }

TEST_F(CudaOutOfMemoryTest, ForPagedMoments) {
  EachAllocationRefused("paged_adamw_8bit", "none", 3);
}

TEST_F(CudaOutOfMemoryTest, ForOffloadedActivations) {
  EachAllocationRefused("adamw_torch", "offload", 3);
}

TEST_F(CudaOutOfMemoryTest, ForPagedMomentsAndOffloadedActivations) {
  EachAllocationRefused("paged_adamw_8bit", "offload", 4);
}

// Each job makes and frees streams, events and cuDNN's contexts: fewer jobs than on the CPU.
TEST_F(CudaOutOfMemoryTest, WorkFailsBetweenCheckpoints) { WorkFails(BusySpec(), /*stride=*/23); }

// Without injection: the driver refuses the job's block. That error must not stick.
TEST_F(CudaOutOfMemoryTest, OnAFullDevice) {
  TrainingSpec spec = LargeSpec();
  const std::string expected = AdapterOf(spec);
  const UsedBytes before = Used();
  spec.output_dir = fixture_->NewDir("out");
  // Planned while there is room, started when there is none but the half of what it needs.
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<TrainingJob> job,
                       TrainingJob::Create(spec, fixture_->model(), nullptr, *backend_));
  const int64_t needed = job->plan().peak_bytes;
  ASSERT_GT(needed, 64 << 20);
  ASSERT_OK_AND_ASSIGN(DeviceBuffer half,
                       backend_->allocator().Allocate(needed / 2, MemoryTag::kWorkspace));
  std::vector<DeviceBuffer> taken = Fill(needed / 8);
  ASSERT_FALSE(taken.empty());
  half = DeviceBuffer();
  const UsedBytes full = Used();
  const auto sink = std::make_shared<RecordingSink>();
  const absl::Status started = job->Start(sink, /*publish=*/nullptr);
  EXPECT_THAT(started, StatusIs(absl::StatusCode::kResourceExhausted,
                                absl::StrCat("training memory: ", needed, " bytes needed, ")));
  EXPECT_THAT(started, StatusIs(absl::StatusCode::kResourceExhausted, " free on the device"));
  EXPECT_EQ(sink->error, started);
  EXPECT_EQ(sink->ends, 1);
  EXPECT_EQ(job->state(), TrainingState::kFailed);
  EXPECT_EQ(Used(), full);
  // Planned and started on the full device: refused by the plan or by the driver.
  EXPECT_THAT(fixture_->Run(spec)->error,
              StatusIs(absl::StatusCode::kResourceExhausted, "training memory: "));
  EXPECT_EQ(Used(), full);

  taken.clear();
  EXPECT_EQ(AdapterOf(spec), expected);
  EXPECT_EQ(Used(), before);
}

}  // namespace
}  // namespace lorad
