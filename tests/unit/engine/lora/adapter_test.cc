#include "engine/lora/adapter.h"

#include <cstdint>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "engine/device/backend.h"
#include "tests/support/block_adapter_memory.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

const ModelConfig& Config() {
  static const ModelConfig config = TinyModel().ParsedConfig();
  return config;
}

TEST(AdapterDigestTest, ChangesWithTheMathsAndWithNothingElse) {
  const HostAdapter adapter = RandomAdapter(Config(), {4, 2}, 1);
  const std::string digest = AdapterDigest(adapter);
  EXPECT_EQ(digest.size(), 64u);
  HostAdapter same = adapter;
  same.config.lora_dropout = 0.5;
  same.config.base_model_name_or_path = "elsewhere";
  same.config.target_modules = {"all-linear"};
  same.config.r = 2;  // said by rank_pattern then
  EXPECT_EQ(AdapterDigest(same), digest);
  // alpha 8 at rank 4, or alpha 4 with rsLoRA: both scale by 2.
  same.modules[0].alpha = 4;
  same.config.use_rslora = true;
  EXPECT_EQ(AdapterDigest(same), digest);

  std::set<std::string> digests = {digest};
  HostAdapter other = adapter;
  other.modules[0].scaling *= 1.0001f;
  digests.insert(AdapterDigest(other));
  other = adapter;
  other.modules[3].a[1] += 1e-6f;
  digests.insert(AdapterDigest(other));
  other = adapter;
  other.modules[3].b[1] = -other.modules[3].b[1];
  digests.insert(AdapterDigest(other));
  other = adapter;
  other.modules.pop_back();
  digests.insert(AdapterDigest(other));
  other = adapter;
  std::swap(other.modules[1].id, other.modules[2].id);  // k and v have equal shapes
  digests.insert(AdapterDigest(other));
  EXPECT_EQ(digests.size(), 6u);
}

TEST(HostAdapterTest, CountsParameters) {
  int64_t expected = 0;
  for (int32_t layer = 0; layer < 2; ++layer) {
    for (const Projection p : kAllProjections)
      expected += 3 * (InFeatures(Config(), p) + OutFeatures(Config(), p));
  }
  EXPECT_EQ(RandomAdapter(Config(), {3}, 1).num_parameters(), expected);
}

TEST(AdapterDigestTest, DoesNotDependOnThreads) {
  // Large enough for several threads, where there are several cores.
  HostAdapter adapter = RandomAdapter(Config(), {4, 2}, 1);
  for (AdapterModule& module : adapter.modules) {
    module.a.resize(module.rank * 50000, 0.5f);
    module.b.resize(module.rank * 50000, 0.25f);
  }
  const std::string digest = AdapterDigest(adapter);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(AdapterDigest(adapter), digest);
}

// Pages of a few matrices, of less than one matrix, and one page for all.
class DeviceAdapterTest : public testing::TestWithParam<std::tuple<bool, int64_t>> {
 protected:
  bool double_precision() const { return std::get<0>(GetParam()); }
  int64_t UsedBytes() const { return backend_->allocator().Usage(MemoryTag::kAdapters).used_bytes; }

  const std::unique_ptr<Backend> backend_ =
      CreateCpuBackend({.double_precision = std::get<0>(GetParam())});
  const std::unique_ptr<Stream> stream_ = *backend_->CreateStream();
  BlockAdapterMemory memory_{*backend_, std::get<1>(GetParam())};
};

TEST_P(DeviceAdapterTest, HoldsTheValuesInTaggedPages) {
  HostAdapter host = RandomAdapter(Config(), {4, 2, 5}, 1);
  host.modules.erase(host.modules.begin() + 2);  // v_proj of layer 0 is not adapted
  ASSERT_OK_AND_ASSIGN(const auto adapter,
                       MakeDeviceAdapter(host, "id", memory_, *backend_, *stream_));
  EXPECT_EQ(adapter->id(), "id");
  EXPECT_EQ(adapter->max_rank(), 5);
  EXPECT_EQ(UsedBytes(), adapter->size_bytes());
  EXPECT_EQ(adapter->size_bytes() % memory_.page_bytes(), 0);
  EXPECT_GE(adapter->size_bytes(), host.num_parameters() * SizeOf(backend_->activation_dtype()));
  EXPECT_EQ(adapter->Find({0, Projection::kV}), nullptr);
  EXPECT_EQ(adapter->Find({7, Projection::kV}), nullptr);
  ASSERT_EQ(adapter->modules().size(), host.modules.size());
  for (size_t i = 0; i < host.modules.size(); ++i) {
    const AdapterModule& expected = host.modules[i];
    const DeviceAdapter::Module* module = adapter->Find(expected.id);
    ASSERT_EQ(module, &adapter->modules()[i]);
    EXPECT_EQ(module->rank, expected.rank);
    EXPECT_EQ(module->scaling, expected.scaling);
    EXPECT_EQ(module->a.shape[0], expected.rank);
    EXPECT_EQ(module->b.shape[1], expected.rank);
    for (const ConstTensorView* view : {&module->a, &module->b}) {
      const std::vector<float>& values = view == &module->a ? expected.a : expected.b;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(view->data) % 16, 0u);
      ASSERT_EQ(view->num_elements(), static_cast<int64_t>(values.size()));
      for (int64_t k = 0; k < view->num_elements(); ++k) {
        const double value = double_precision() ? view->as<double>()[k] : view->as<float>()[k];
        ASSERT_EQ(value, values[k]);
      }
    }
  }
}

TEST_P(DeviceAdapterTest, TakesAllItsPagesOrNone) {
  const HostAdapter host = RandomAdapter(Config(), {4}, 1);
  ASSERT_OK_AND_ASSIGN(auto adapter, MakeDeviceAdapter(host, "a", memory_, *backend_, *stream_));
  const int64_t bytes = adapter->size_bytes();
  adapter.reset();
  EXPECT_EQ(UsedBytes(), 0);
  backend_->allocator().SetLimit(MemoryTag::kAdapters, 2 * bytes - 1);
  ASSERT_OK_AND_ASSIGN(adapter, MakeDeviceAdapter(host, "a", memory_, *backend_, *stream_));
  EXPECT_THAT(MakeDeviceAdapter(host, "b", memory_, *backend_, *stream_),
              StatusIs(absl::StatusCode::kResourceExhausted, "adapter b needs"));
  EXPECT_EQ(UsedBytes(), bytes);
  adapter.reset();
  EXPECT_OK(MakeDeviceAdapter(host, "b", memory_, *backend_, *stream_));
  EXPECT_EQ(backend_->allocator().Usage(MemoryTag::kPinned).used_bytes, 0);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, DeviceAdapterTest,
                         testing::Combine(testing::Bool(),
                                          testing::Values(int64_t{272}, 4096, 1 << 20)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) ? "F64" : "F32") + "Pages" +
                                  std::to_string(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace lorad
