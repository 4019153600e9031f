#include "engine/train/adapter_snapshot.h"

#include <cstring>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/deferred_backend.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

// Two modules of sizes that are no multiple of any alignment.
HostAdapter SmallAdapter(float first) {
  HostAdapter adapter;
  adapter.config.r = 3;
  for (const Projection projection : {Projection::kQ, Projection::kK}) {
    AdapterModule module;
    module.id = {0, projection};
    module.rank = 3;
    module.alpha = 6;
    module.scaling = 2;
    for (int i = 0; i < 3 * 100; ++i) module.a.push_back(first += 0.25f);
    for (int i = 0; i < 70 * 3; ++i) module.b.push_back(first += 0.25f);
    adapter.modules.push_back(std::move(module));
  }
  return adapter;
}

// Something to tell copies by, in every byte that is a number.
void Fill(const TensorView& view, int seed) {
  if (view.empty()) return;
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    const int value = static_cast<int>((i * 7 + seed) % 100);
    if (view.dtype == DType::kU8) view.as<uint8_t>()[i] = static_cast<uint8_t>(value);
    if (view.dtype == DType::kF32) view.as<float>()[i] = static_cast<float>(value);
    if (view.dtype == DType::kF64) view.as<double>()[i] = value;
  }
}

void ExpectEqual(const HostMoment& a, const HostMoment& b) {
  EXPECT_EQ(a.values, b.values);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.scales, b.scales);
}

class AdapterSnapshotTest : public testing::TestWithParam<std::tuple<OptimizerKind, bool>> {
 protected:
  DeferredBackend backend_{CreateCpuBackend({.double_precision = std::get<1>(GetParam())})};
  const std::unique_ptr<Stream> stream_ = *backend_.CreateStream();
  const HostAdapter adapter_ = SmallAdapter(1);
};

TEST_P(AdapterSnapshotTest, HoldsWhatBlockingReadsGive) {
  const OptimizerKind kind = std::get<0>(GetParam());
  Arena measuring = Arena::Measuring("test");
  const TrainableAdapter plan = *TrainableAdapter::Create(adapter_, backend_, measuring, kind);
  ASSERT_OK_AND_ASSIGN(const DeviceBuffer block,
                       backend_.allocator().Allocate(measuring.peak_bytes(), MemoryTag::kTraining));
  Arena arena("test", block.data(), measuring.peak_bytes());
  TrainableAdapter trained = *TrainableAdapter::Create(adapter_, backend_, arena, kind);
  ASSERT_OK(trained.SetWeights(adapter_, *stream_));
  const AdamWTensor& tensor = trained.tensor();
  Fill(tensor.m, 1);
  Fill(tensor.v, 2);
  Fill(tensor.m_scales, 3);
  Fill(tensor.v_scales, 4);

  const int64_t before = backend_.allocator().Usage(MemoryTag::kPinned).used_bytes;
  ASSERT_OK_AND_ASSIGN(const auto snapshot, AdapterSnapshot::Create(trained, backend_));
  EXPECT_EQ(backend_.allocator().Usage(MemoryTag::kPinned).used_bytes - before,
            AdapterSnapshot::BytesFor(plan));
  ASSERT_OK(snapshot->Begin(/*with_moments=*/true, *stream_));
  backend_.HoldEvents(true);
  ASSERT_OK_AND_ASSIGN(bool done, snapshot->Done());
  EXPECT_FALSE(done);
  backend_.HoldEvents(false);
  ASSERT_OK_AND_ASSIGN(done, snapshot->Done());
  EXPECT_TRUE(done);

  HostAdapter expected = adapter_;
  ASSERT_OK(trained.GetWeights(expected, *stream_));
  ASSERT_OK_AND_ASSIGN(const HostMoments moments, trained.GetMoments(*stream_));
  // The device goes on; the snapshot stays.
  for (const TensorView& view : {tensor.param, tensor.m, tensor.v, tensor.m_scales})
    if (!view.empty()) std::memset(view.data, 0, view.size_bytes());
  const HostAdapter copy = snapshot->ToHost(adapter_);
  EXPECT_EQ(AdapterDigest(copy), AdapterDigest(expected));
  EXPECT_EQ(AdapterDigest(snapshot->Views(adapter_)), AdapterDigest(expected));
  EXPECT_EQ(copy.modules[1].alpha, 6);
  EXPECT_EQ(copy.config.r, 3);
  ExpectEqual(snapshot->Moments().m, moments.m);
  ExpectEqual(snapshot->Moments().v, moments.v);

  // Again, of the weights alone.
  ASSERT_OK(trained.SetWeights(SmallAdapter(-500), *stream_));
  ASSERT_OK(snapshot->Begin(/*with_moments=*/false, *stream_));
  ASSERT_OK_AND_ASSIGN(done, snapshot->Done());
  EXPECT_TRUE(done);
  EXPECT_EQ(AdapterDigest(snapshot->Views(adapter_)), AdapterDigest(SmallAdapter(-500)));
}

INSTANTIATE_TEST_SUITE_P(Kinds, AdapterSnapshotTest,
                         testing::Values(std::tuple(OptimizerKind::kAdamW, false),
                                         std::tuple(OptimizerKind::kAdamW, true),
                                         std::tuple(OptimizerKind::kPagedAdamW, false),
                                         std::tuple(OptimizerKind::kAdamW8Bit, false),
                                         std::tuple(OptimizerKind::kPagedAdamW8Bit, false)));

}  // namespace
}  // namespace lorad
