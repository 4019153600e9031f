#include <vector>

#include "engine/model/modules.h"
#include "gtest/gtest.h"

namespace lorad {
namespace {

TEST(ModulesTest, PathsGoBothWays) {
  for (int32_t index = 0; index < 200 * kNumProjections; ++index) {
    const ModuleId id = ModuleId::FromIndex(index);
    EXPECT_EQ(id.index(), index);
    EXPECT_EQ(ParseModulePath(ModulePath(id)), id) << ModulePath(id);
  }
  EXPECT_EQ(ModulePath({3, Projection::kQ}), "model.layers.3.self_attn.q_proj");
  EXPECT_EQ(ModulePath({12, Projection::kDown}), "model.layers.12.mlp.down_proj");
}

TEST(ModulesTest, OtherPathsAreNone) {
  for (const char* path :
       {"", "q_proj", "model.layers.", "model.layers.3", "model.layers.3.",
        "model.layers.3.mlp.q_proj", "model.layers.03.self_attn.q_proj",
        "model.layers.+3.self_attn.q_proj", "model.layers.-1.self_attn.q_proj",
        "model.layers.99999999999.self_attn.q_proj", "model.model.layers.3.self_attn.q_proj",
        "model.layers.3.self_attn.q_proj.weight", "model.layers.3.self_attn.q_proj ", "lm_head"}) {
    EXPECT_EQ(ParseModulePath(path), std::nullopt) << path;
  }
}

TEST(ModulesTest, Features) {
  ModelConfig config;
  config.hidden_size = 10;
  config.intermediate_size = 30;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 6;  // heads * head_dim is not hidden
  const int64_t expected[kNumProjections][2] = {{10, 24}, {10, 12}, {10, 12}, {24, 10},
                                                {10, 30}, {10, 30}, {30, 10}};
  for (const Projection projection : kAllProjections) {
    const int64_t* in_out = expected[static_cast<int>(projection)];
    EXPECT_EQ(InFeatures(config, projection), in_out[0]) << ProjectionName(projection);
    EXPECT_EQ(OutFeatures(config, projection), in_out[1]) << ProjectionName(projection);
  }
  EXPECT_EQ(KnownProjections(), "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj");
}

TEST(ModulesTest, EachBiasBelongsToItsProjections) {
  const auto with_bias = [](const ModelConfig& config) {
    std::vector<Projection> found;
    for (const Projection projection : kAllProjections)
      if (HasBias(config, projection)) found.push_back(projection);
    return found;
  };
  using P = Projection;
  ModelConfig qkv, o, mlp;
  qkv.qkv_bias = o.o_bias = mlp.mlp_bias = true;
  EXPECT_EQ(with_bias(ModelConfig()), std::vector<P>());
  EXPECT_EQ(with_bias(qkv), (std::vector<P>{P::kQ, P::kK, P::kV}));
  EXPECT_EQ(with_bias(o), std::vector<P>{P::kO});
  EXPECT_EQ(with_bias(mlp), (std::vector<P>{P::kGate, P::kUp, P::kDown}));
}

}  // namespace
}  // namespace lorad
