#include "engine/lora/adapter.h"

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "engine/device/backend.h"
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

class DeviceAdapterTest : public testing::TestWithParam<bool> {
 protected:
  const std::unique_ptr<Backend> backend_ = CreateCpuBackend({.double_precision = GetParam()});
  const std::unique_ptr<Stream> stream_ = *backend_->CreateStream();
};

TEST_P(DeviceAdapterTest, HoldsTheValuesInOneTaggedBlock) {
  HostAdapter host = RandomAdapter(Config(), {4, 2, 5}, 1);
  host.modules.erase(host.modules.begin() + 2);  // v_proj of layer 0 is not adapted
  ASSERT_OK_AND_ASSIGN(const auto adapter, DeviceAdapter::Create(host, "id", *backend_, *stream_));
  EXPECT_EQ(adapter->id(), "id");
  EXPECT_EQ(adapter->max_rank(), 5);
  EXPECT_EQ(adapter->size_bytes(), DeviceAdapterBytes(host, *backend_));
  EXPECT_EQ(backend_->allocator().Usage(MemoryTag::kAdapters).used_bytes, adapter->size_bytes());
  EXPECT_GE(adapter->size_bytes(), host.num_parameters() * SizeOf(backend_->adapter_dtype()));
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
    for (int64_t k = 0; k < module->a.num_elements(); ++k) {
      const double value = GetParam() ? module->a.as<double>()[k] : module->a.as<float>()[k];
      ASSERT_EQ(value, expected.a[k]);
    }
    for (int64_t k = 0; k < module->b.num_elements(); ++k) {
      const double value = GetParam() ? module->b.as<double>()[k] : module->b.as<float>()[k];
      ASSERT_EQ(value, expected.b[k]);
    }
  }
}

TEST_P(DeviceAdapterTest, GivesItsBytesBack) {
  const HostAdapter host = RandomAdapter(Config(), {4}, 1);
  backend_->allocator().SetLimit(MemoryTag::kAdapters, DeviceAdapterBytes(host, *backend_));
  ASSERT_OK_AND_ASSIGN(auto adapter, DeviceAdapter::Create(host, "a", *backend_, *stream_));
  EXPECT_THAT(DeviceAdapter::Create(host, "b", *backend_, *stream_),
              StatusIs(absl::StatusCode::kResourceExhausted, "adapters"));
  adapter.reset();
  EXPECT_EQ(backend_->allocator().Usage(MemoryTag::kAdapters).used_bytes, 0);
  EXPECT_OK(DeviceAdapter::Create(host, "b", *backend_, *stream_));
}

INSTANTIATE_TEST_SUITE_P(Dtypes, DeviceAdapterTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "F64" : "F32"; });

}  // namespace
}  // namespace lorad
