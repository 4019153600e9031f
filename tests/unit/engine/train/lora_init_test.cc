#include "engine/train/lora_init.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/lora/peft.h"
#include "engine/model/config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad {
namespace {

using testing::ElementsAre;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
const std::string kModelDir = std::string(LORAD_SOURCE_DIR) + "/tests/golden/llama-gqa";

// 3 layers, hidden 128, 64 for k and v, MLP 320.
ModelConfig Config() { return *LoadModelConfig(kModelDir); }

TEST(InitialAdapterTest, DrawsAUniformlyAndLeavesBZero) {
  LoraSpec spec;
  spec.r = 16;
  ASSERT_OK_AND_ASSIGN(const HostAdapter adapter, InitialAdapter(spec, Config(), 1));
  ASSERT_EQ(adapter.modules.size(), 21u);
  for (const AdapterModule& module : adapter.modules) {
    const int64_t in = InFeatures(Config(), module.id.projection);
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    ASSERT_EQ(static_cast<int64_t>(module.a.size()), 16 * in);
    const auto [low, high] = std::minmax_element(module.a.begin(), module.a.end());
    EXPECT_GE(*low, -bound);
    EXPECT_LT(*high, bound);
    EXPECT_LT(*low, -0.99 * bound);  // of 2048 draws: missed once in e^10
    EXPECT_GT(*high, 0.99 * bound);
    double mean = 0;
    for (const float value : module.a) mean += value / static_cast<double>(module.a.size());
    // Standard deviation of the mean: bound / sqrt(3 * n), n >= 2048; five of them.
    EXPECT_NEAR(mean, 0, 5 * bound / std::sqrt(3.0 * 2048));
    EXPECT_TRUE(std::all_of(module.b.begin(), module.b.end(), [](float x) { return x == 0; }));
    EXPECT_FLOAT_EQ(module.scaling, 1.0f);
  }
}

TEST(InitialAdapterTest, DependsOnSeedAndPathAlone) {
  LoraSpec all, some;
  some.target_modules = {"v_proj"};
  ASSERT_OK_AND_ASSIGN(const HostAdapter a, InitialAdapter(all, Config(), 1));
  ASSERT_OK_AND_ASSIGN(const HostAdapter b, InitialAdapter(some, Config(), 1));
  ASSERT_OK_AND_ASSIGN(const HostAdapter c, InitialAdapter(some, Config(), 2));
  ASSERT_EQ(b.modules.size(), 3u);
  EXPECT_EQ(b.modules[0].a, a.modules[2].a);  // v_proj of layer 0
  EXPECT_NE(b.modules[0].a, c.modules[0].a);
  EXPECT_NE(b.modules[0].a, b.modules[1].a);
  EXPECT_NE(AdapterDigest(b), AdapterDigest(c));
}

TEST(InitialAdapterTest, ScalesByRankOrItsRoot) {
  LoraSpec spec;
  spec.r = 4;
  spec.lora_alpha = 8;
  ASSERT_OK_AND_ASSIGN(HostAdapter adapter, InitialAdapter(spec, Config(), 0));
  EXPECT_FLOAT_EQ(adapter.modules[0].scaling, 2.0f);
  spec.use_rslora = true;
  ASSERT_OK_AND_ASSIGN(adapter, InitialAdapter(spec, Config(), 0));
  EXPECT_FLOAT_EQ(adapter.modules[0].scaling, 4.0f);
}

TEST(InitialAdapterTest, RefusesRanksAndRangesByName) {
  const auto with = [](auto change) {
    LoraSpec spec;
    change(spec);
    return InitialAdapter(spec, Config(), 0);
  };
  EXPECT_THAT(with([](LoraSpec& s) { s.r = 0; }),
              StatusIs(kInvalid, "r is 0; it must be in [1, 1024]"));
  EXPECT_THAT(with([](LoraSpec& s) { s.r = 1025; }), StatusIs(kInvalid, "r is 1025; it must be"));
  EXPECT_THAT(with([](LoraSpec& s) { s.r = 65; }),
              StatusIs(kInvalid,
                       "r is 65; it must be at most 64, the smaller side of "
                       "model.layers.0.self_attn.k_proj [64, 128]"));
  EXPECT_OK(with([](LoraSpec& s) { s.r = 64; }));
  EXPECT_THAT(with([](LoraSpec& s) { s.lora_alpha = 0; }), StatusIs(kInvalid, "lora_alpha is 0"));
  EXPECT_THAT(with([](LoraSpec& s) { s.lora_dropout = 1; }),
              StatusIs(kInvalid, "lora_dropout is 1; it must be in [0, 1)"));
  EXPECT_THAT(with([](LoraSpec& s) { s.target_modules = {"w_proj"}; }),
              StatusIs(kInvalid, "w_proj"));
}

TEST(TargetNamesTest, NamesProjectionsWhereEveryLayerHasThem) {
  const ModelConfig config = Config();
  EXPECT_THAT(TargetNames({{0, Projection::kQ}, {1, Projection::kQ}, {2, Projection::kQ}}, config),
              ElementsAre("q_proj"));
  EXPECT_THAT(TargetNames({{1, Projection::kDown}}, config),
              ElementsAre("model.layers.1.mlp.down_proj"));
}

TEST(WarmStartAdapterTest, TakesTheWeights) {
  LoraSpec spec;
  spec.r = 8;
  spec.lora_alpha = 16;
  ASSERT_OK_AND_ASSIGN(const HostAdapter adapter,
                       WarmStartAdapter(spec, Config(), kModelDir + "/adapter_init"));
  ASSERT_OK_AND_ASSIGN(const HostAdapter file,
                       ReadPeftAdapter(kModelDir + "/adapter_init", Config()));
  EXPECT_EQ(AdapterDigest(adapter), AdapterDigest(file));
}

TEST(WarmStartAdapterTest, KeepsRanksAndAlphasOfSingleModules) {
  LoraSpec spec;
  spec.r = 64;
  spec.lora_alpha = 128;
  spec.target_modules = {"k_proj", "q_proj"};
  ASSERT_OK_AND_ASSIGN(HostAdapter mixed, InitialAdapter(spec, Config(), 3));
  spec.r = 128;  // k_proj's smaller side is 64: only a pattern can give q_proj all of its own
  spec.target_modules = {"q_proj"};
  ASSERT_OK_AND_ASSIGN(const HostAdapter wide, InitialAdapter(spec, Config(), 3));
  mixed.modules[0] = wide.modules[0];
  mixed.modules[1].alpha = 32;
  mixed.modules[1].scaling = 0.5f;
  const TempDir dir;
  ASSERT_OK(WritePeftAdapter(mixed, dir.File("mixed")));

  spec.target_modules = {"k_proj", "q_proj"};
  ASSERT_OK_AND_ASSIGN(const HostAdapter adapter,
                       WarmStartAdapter(spec, Config(), dir.File("mixed")));
  EXPECT_EQ(AdapterDigest(adapter), AdapterDigest(mixed));
  EXPECT_EQ(adapter.modules[0].rank, 128);
  EXPECT_EQ(adapter.modules[1].rank, 64);
  EXPECT_EQ(adapter.modules[1].alpha, 32);
  EXPECT_EQ(adapter.config.r, 128);
  spec.r = 64;
  EXPECT_THAT(WarmStartAdapter(spec, Config(), dir.File("mixed")),
              StatusIs(kInvalid, "r is 64, the adapter's is 128"));
}

TEST(WarmStartAdapterTest, NamesWhatDiffers) {
  const auto with = [](auto change) {
    LoraSpec spec;
    spec.r = 8;
    spec.lora_alpha = 16;
    change(spec);
    return WarmStartAdapter(spec, Config(), kModelDir + "/adapter_init");
  };
  EXPECT_THAT(with([](LoraSpec& s) { s.r = 4; }), StatusIs(kInvalid, "r is 4, the adapter's is 8"));
  EXPECT_THAT(with([](LoraSpec& s) { s.lora_alpha = 8; }),
              StatusIs(kInvalid, "lora_alpha is 8, the adapter's is 16"));
  EXPECT_THAT(with([](LoraSpec& s) { s.use_rslora = true; }), StatusIs(kInvalid, "use_rslora"));
  EXPECT_THAT(
      with([](LoraSpec& s) { s.target_modules = {"q_proj"}; }),
      StatusIs(kInvalid, "model.layers.0.self_attn.k_proj, which target_modules leaves out"));
  EXPECT_THAT(WarmStartAdapter(LoraSpec(), Config(), kModelDir + "/absent"),
              StatusIs(absl::StatusCode::kNotFound, "absent"));
}

}  // namespace
}  // namespace lorad
