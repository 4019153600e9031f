#include "engine/plan/presets.h"

#include <map>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using absl::StatusCode;

// As the models' pages on the Hugging Face hub give them, tied heads counted once.
TEST(PresetsTest, HaveThePublishedParameterCounts) {
  const std::map<std::string, int64_t> published = {
      {"llama-7b", 6738415616},     {"llama-13b", 13015864320},   {"llama-33b", 32528943616},
      {"llama-65b", 65285660672},   {"llama-2-7b", 6738415616},   {"llama-2-13b", 13015864320},
      {"llama-2-70b", 68976648192}, {"llama-3-8b", 8030261248},   {"llama-3-70b", 70553706496},
      {"llama-3.2-1b", 1235814400}, {"llama-3.2-3b", 3212749824}, {"qwen2.5-0.5b", 494032768},
      {"qwen2.5-1.5b", 1543714304}, {"qwen2.5-3b", 3085938688},   {"qwen2.5-7b", 7615616512},
      {"qwen2.5-14b", 14770033664}, {"qwen2.5-32b", 32763876352}, {"qwen2.5-72b", 72706203648},
  };
  EXPECT_EQ(PresetNames().size(), published.size());
  for (const auto& [name, parameters] : published) {
    ASSERT_OK_AND_ASSIGN(const ModelConfig config, FindPreset(name));
    EXPECT_OK(CheckPlannable(config));
    EXPECT_EQ(ParameterCount(config), parameters) << name;
  }
}

TEST(PresetsTest, AnUnknownNameIsAnsweredWithTheKnownOnes) {
  EXPECT_THAT(FindPreset("llama-66b"),
              StatusIs(StatusCode::kNotFound, "no model preset \"llama-66b\"; known are llama-7b"));
}

TEST(PresetsTest, NonsenseIsRefusedByName) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, FindPreset("llama-7b"));
  const auto refuses = [&](auto change, const std::string& message) {
    ModelConfig changed = config;
    change(changed);
    EXPECT_THAT(CheckPlannable(changed), StatusIs(StatusCode::kInvalidArgument, message));
  };
  refuses([](ModelConfig& c) { c.num_layers = 0; }, "num_hidden_layers is 0; it must be in [1, ");
  refuses([](ModelConfig& c) { c.num_kv_heads = 33; }, "num_key_value_heads is 33");
  refuses([](ModelConfig& c) { c.num_kv_heads = 5; }, "must divide num_attention_heads, 32");
  refuses([](ModelConfig& c) { c.hidden_size = INT64_MAX; }, "hidden_size is 9223372036854775807");
  refuses(
      [](ModelConfig& c) {
        c.hidden_size = 1 << 20;
        c.intermediate_size = 1 << 22;
        c.num_layers = 1 << 14;
      },
      "parameters; at most 1e+14");
}

}  // namespace
}  // namespace lorad
