// Jobs under which the device gives out, on any backend: what must hold then.
#ifndef LORAD_TESTS_TRAIN_DEVICE_FAILURE_CASES_H_
#define LORAD_TESTS_TRAIN_DEVICE_FAILURE_CASES_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/train/job.h"
#include "gtest/gtest.h"
#include "tests/support/failing_backend.h"
#include "tests/support/status_matchers.h"
#include "tests/train/training_fixture.h"

namespace lorad {

// Of every tag.
using UsedBytes = std::array<int64_t, kNumMemoryTags>;

class DeviceFailureCases : public testing::Test {
 protected:
  // REQUIRES: called once, before anything else.
  void Use(std::unique_ptr<Backend> base) {
    auto backend = std::make_unique<FailingBackend>(std::move(base));
    backend_ = backend.get();
    fixture_ = std::make_unique<TrainingFixture>("llama-gqa", std::move(backend));
  }

  // Two steps of two micro-batches each.
  TrainingSpec Spec(const std::string& optim, const std::string& activation_checkpointing) {
    TrainingSpec spec = fixture_->SmallSpec();
    spec.lora.lora_dropout = 0.1;
    spec.max_steps = 2;
    spec.optim = optim;
    spec.activation_checkpointing = activation_checkpointing;
    return spec;
  }

  TrainingPlan Plan(const TrainingSpec& spec) {
    const auto job = TrainingJob::Create(spec, fixture_->model(), nullptr, *backend_);
    EXPECT_OK(job);
    return job.ok() ? (*job)->plan() : TrainingPlan{};
  }

  // The adapter that a job on the device as it is gives.
  std::string AdapterOf(const TrainingSpec& spec) {
    const auto sink = fixture_->Run(spec);
    EXPECT_TRUE(sink->result.has_value()) << sink->error;
    return sink->result ? sink->result->adapter_id : "";
  }

  // Runs a job to its end and keeps it: what an ended job still holds is lost to the next.
  std::shared_ptr<RecordingSink> RunAndKeep(const TrainingSpec& spec) {
    auto sink = std::make_shared<RecordingSink>();
    auto job = TrainingJob::Create(spec, fixture_->model(), nullptr, *backend_);
    EXPECT_OK(job);
    if (!job.ok()) return sink;
    ended_ = *std::move(job);
    if (ended_->Start(sink, /*publish=*/nullptr).ok())
      while (ended_->Advance() == TrainingState::kRunning) {
      }
    return sink;
  }

  UsedBytes Used() {
    UsedBytes used;
    for (int i = 0; i < kNumMemoryTags; ++i)
      used[i] = backend_->allocator().Usage(static_cast<MemoryTag>(i)).used_bytes;
    return used;
  }

  // A job for each of its allocations, which is refused; after each, the same job again, which must
  // not notice. `allocations`: how many a job makes.
  void EachAllocationRefused(const std::string& optim, const std::string& activation_checkpointing,
                             int allocations) {
    TrainingSpec spec = Spec(optim, activation_checkpointing);
    const TrainingPlan plan = Plan(spec);
    const std::string expected = AdapterOf(spec);
    const UsedBytes before = Used();
    UsedBytes refused_bytes = {};
    for (int n = 1;; ++n) {
      SCOPED_TRACE(absl::StrCat("allocation ", n));
      spec.output_dir = fixture_->NewDir("out");
      backend_->FailAllocation(n);
      const auto sink = RunAndKeep(spec);
      const auto refusal = backend_->refusal();
      backend_->FailAllocation(0);
      EXPECT_EQ(sink->ends, 1);
      EXPECT_EQ(Used(), before);
      if (!refusal) {  // no n-th allocation
        EXPECT_EQ(n, allocations + 1);
        ASSERT_TRUE(sink->result.has_value()) << sink->error;
        EXPECT_EQ(sink->result->adapter_id, expected);
        break;
      }
      EXPECT_THAT(
          sink->error,
          StatusIs(absl::StatusCode::kResourceExhausted,
                   absl::StrCat(Name(refusal->tag), " memory: ", refusal->bytes, " bytes needed")));
      EXPECT_EQ(sink->resumed_from, -1);  // it never started
      refused_bytes[static_cast<int>(refusal->tag)] += refusal->bytes;
      // In the same output directory: the failed job has left nothing there.
      EXPECT_EQ(AdapterOf(spec), expected);
      EXPECT_EQ(Used(), before);
    }
    // Whatever a job takes was planned, and was refused once.
    UsedBytes planned = {};
    planned[static_cast<int>(MemoryTag::kTraining)] = plan.peak_bytes;
    planned[static_cast<int>(MemoryTag::kPinned)] = plan.pinned_bytes;
    EXPECT_EQ(refused_bytes, planned);
  }

  // Paged moments, offloaded activations, evaluations and checkpoints: every kind of work.
  TrainingSpec BusySpec() {
    TrainingSpec spec = Spec("paged_adamw_8bit", "offload");
    spec.eval_path = fixture_->WriteRandomRows("eval.jsonl", 6, 2);
    spec.eval_steps = 1;
    spec.save_steps = 1;
    spec.checkpoint_dir = fixture_->NewDir("checkpoints");
    return spec;
  }

  // A job of `spec` for every `stride`-th copy or op, which fails; after each, a job that goes on
  // from the last checkpoint, if `spec` has any.
  void WorkFails(TrainingSpec spec, int stride) {
    const bool checkpoints = !spec.checkpoint_dir.empty();
    const std::string expected = AdapterOf(spec);
    const UsedBytes before = Used();
    int64_t resumed = 0;
    for (int n = 1;; n += stride) {
      SCOPED_TRACE(absl::StrCat("piece of work ", n));
      spec.output_dir = fixture_->NewDir("out");
      if (checkpoints) spec.checkpoint_dir = fixture_->NewDir("checkpoints");
      backend_->FailWork(n);
      const auto sink = RunAndKeep(spec);
      const bool failed = backend_->work_failed();
      backend_->FailWork(0);
      EXPECT_EQ(sink->ends, 1);
      EXPECT_EQ(Used(), before);
      if (!failed) {  // no n-th piece of work
        ASSERT_TRUE(sink->result.has_value()) << sink->error;
        EXPECT_EQ(sink->result->adapter_id, expected);
        break;
      }
      EXPECT_THAT(sink->error, StatusIs(absl::StatusCode::kInternal, WorkGate::kMessage));
      const auto next = fixture_->Run(spec);
      ASSERT_TRUE(next->result.has_value()) << next->error;
      EXPECT_EQ(next->result->adapter_id, expected);
      EXPECT_EQ(Used(), before);
      EXPECT_EQ(next->resumed_from, static_cast<int64_t>(sink->checkpoints.size()));
      resumed += next->resumed_from;
    }
    EXPECT_EQ(resumed > 0, checkpoints);
  }

  std::unique_ptr<TrainingFixture> fixture_;
  FailingBackend* backend_ = nullptr;  // the fixture's
  std::unique_ptr<TrainingJob> ended_;
};

}  // namespace lorad

#endif  // LORAD_TESTS_TRAIN_DEVICE_FAILURE_CASES_H_
