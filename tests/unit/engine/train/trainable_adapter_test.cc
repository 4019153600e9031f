// Where each kind of optimiser keeps an adapter's moments, and that they come and go unchanged.
#include "engine/train/trainable_adapter.h"

#include <optional>
#include <vector>

#include "engine/core/arena.h"
#include "engine/device/backend.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr OptimizerKind kKinds[] = {OptimizerKind::kAdamW, OptimizerKind::kAdamW8Bit,
                                    OptimizerKind::kPagedAdamW, OptimizerKind::kPagedAdamW8Bit};

// Two modules of rank 3; A and B of sizes that are no multiple of a block.
HostAdapter SmallAdapter() {
  HostAdapter adapter;
  for (const Projection projection : {Projection::kQ, Projection::kV}) {
    AdapterModule& module = adapter.modules.emplace_back();
    module.id = {0, projection};
    module.rank = 3;
    module.scaling = 2;
    for (int i = 0; i < 3 * 100; ++i) module.a.push_back(0.01f * static_cast<float>(i + 1));
    for (int i = 0; i < 3 * 70; ++i) module.b.push_back(-0.02f * static_cast<float>(i + 1));
  }
  return adapter;
}

class TrainableAdapterTest : public testing::Test {
 protected:
  // Lays out `adapter_` of `kind` in a block of just the measured size, with its weights set.
  TrainableAdapter Make(OptimizerKind kind) {
    Arena measuring = Arena::Measuring("test");
    const TrainableAdapter plan = *TrainableAdapter::Create(adapter_, *backend_, measuring, kind);
    EXPECT_EQ(plan.device_bytes(), measuring.peak_bytes());
    EXPECT_EQ(Pinned().used_bytes, 0) << "measuring took memory";
    blocks_.push_back(
        *backend_->allocator().Allocate(measuring.peak_bytes(), MemoryTag::kTraining));
    Arena arena("test", blocks_.back().data(), measuring.peak_bytes());
    TrainableAdapter made = *TrainableAdapter::Create(adapter_, *backend_, arena, kind);
    EXPECT_EQ(made.device_bytes(), plan.device_bytes());
    EXPECT_EQ(made.pinned_bytes(), plan.pinned_bytes());
    EXPECT_EQ(Pinned().used_bytes, plan.pinned_bytes());
    EXPECT_OK(made.SetWeights(adapter_, *stream_));
    return made;
  }
  MemoryUsage Pinned() const { return backend_->allocator().Usage(MemoryTag::kPinned); }

  const std::unique_ptr<Backend> backend_ = CreateCpuBackend();
  const std::unique_ptr<Stream> stream_ = *backend_->CreateStream();
  const HostAdapter adapter_ = SmallAdapter();
  std::vector<DeviceBuffer> blocks_;
};

TEST_F(TrainableAdapterTest, PagedMomentsAreNotOnTheDevice) {
  // Matrices of 300 and 210 elements, each rounded up to 64, or to a block of 256.
  constexpr int64_t kFull = 2 * (320 + 256), kEight = 2 * (512 + 256), kCodeBooks = 2 * 1024;
  const int64_t eight_moments = 2 * (kEight + 256);  // the scales take one unit of the arena
  const auto expect = [&](OptimizerKind kind, int64_t device, int64_t pinned) {
    const TrainableAdapter adapter = Make(kind);
    EXPECT_EQ(adapter.device_bytes(), device);
    EXPECT_EQ(adapter.pinned_bytes(), pinned);
  };
  expect(OptimizerKind::kAdamW, 4 * 4 * kFull, 0);
  expect(OptimizerKind::kPagedAdamW, 2 * 4 * kFull, 2 * 4 * kFull);
  expect(OptimizerKind::kAdamW8Bit, 2 * 4 * kEight + kCodeBooks + eight_moments, 0);
  expect(OptimizerKind::kPagedAdamW8Bit, 2 * 4 * kEight + kCodeBooks, eight_moments);
  EXPECT_EQ(Pinned().used_bytes, 0) << "destroyed, they gave the memory back";
}

TEST_F(TrainableAdapterTest, WeightsComeBackAndMomentsBeginAsZero) {
  for (const OptimizerKind kind : kKinds) {
    const TrainableAdapter trainable = Make(kind);
    HostAdapter found = adapter_;
    for (AdapterModule& module : found.modules) module.a.clear(), module.b.clear();
    ASSERT_OK(trainable.GetWeights(found, *stream_));
    for (size_t i = 0; i < found.modules.size(); ++i) {
      EXPECT_EQ(found.modules[i].a, adapter_.modules[i].a);
      EXPECT_EQ(found.modules[i].b, adapter_.modules[i].b);
    }
    ASSERT_OK_AND_ASSIGN(const HostMoments moments, trainable.GetMoments(*stream_));
    EXPECT_EQ(moments.m.values.empty(), IsEightBit(kind));
    EXPECT_EQ(moments.m.codes.empty(), !IsEightBit(kind));
    for (const HostMoment* moment : {&moments.m, &moments.v}) {
      EXPECT_THAT(moment->values, testing::Each(0.0f));
      EXPECT_THAT(moment->scales, testing::Each(0.0f));
    }
  }
}

TEST_F(TrainableAdapterTest, MomentsComeBackBitForBit) {
  for (const OptimizerKind kind : kKinds) {
    TrainableAdapter trainable = Make(kind);
    ASSERT_OK_AND_ASSIGN(HostMoments moments, trainable.GetMoments(*stream_));
    int next = 0;
    for (HostMoment* moment : {&moments.m, &moments.v}) {
      for (float& value : moment->values) value = 0.37f * static_cast<float>(++next);
      for (uint8_t& code : moment->codes) code = static_cast<uint8_t>(++next * 7);
      for (float& scale : moment->scales) scale = 0.11f * static_cast<float>(++next);
    }
    ASSERT_OK(trainable.SetMoments(moments, *stream_));
    ASSERT_OK_AND_ASSIGN(const HostMoments found, trainable.GetMoments(*stream_));
    EXPECT_EQ(found.m.values, moments.m.values);
    EXPECT_EQ(found.m.codes, moments.m.codes);
    EXPECT_EQ(found.m.scales, moments.m.scales);
    EXPECT_EQ(found.v.values, moments.v.values);
    EXPECT_EQ(found.v.codes, moments.v.codes);
    EXPECT_EQ(found.v.scales, moments.v.scales);
  }
}

TEST_F(TrainableAdapterTest, RefusesMomentsOfAnotherForm) {
  TrainableAdapter full = Make(OptimizerKind::kAdamW);
  TrainableAdapter eight = Make(OptimizerKind::kAdamW8Bit);
  const auto kPrecondition = absl::StatusCode::kFailedPrecondition;
  ASSERT_OK_AND_ASSIGN(const HostMoments full_moments, full.GetMoments(*stream_));
  ASSERT_OK_AND_ASSIGN(HostMoments eight_moments, eight.GetMoments(*stream_));
  EXPECT_THAT(full.SetMoments(eight_moments, *stream_),
              StatusIs(kPrecondition, "0 fp32 values, 1536 codes and 6 scales"));
  EXPECT_THAT(eight.SetMoments(full_moments, *stream_),
              StatusIs(kPrecondition, "1152 fp32 values, 0 codes and 0 scales"));
  eight_moments.v.scales.pop_back();
  EXPECT_THAT(eight.SetMoments(eight_moments, *stream_), StatusIs(kPrecondition, "5 scales"));
}

TEST_F(TrainableAdapterTest, NoTwoMatricesShareAScale) {
  const TrainableAdapter trainable = Make(OptimizerKind::kAdamW8Bit);
  const float* params = trainable.params().as<float>();
  for (const TrainableAdapter::Module& module : trainable.modules()) {
    EXPECT_EQ((module.a.as<float>() - params) % kMomentBlock, 0);
    EXPECT_EQ((module.b.as<float>() - params) % kMomentBlock, 0);
  }
}

}  // namespace
}  // namespace lorad
