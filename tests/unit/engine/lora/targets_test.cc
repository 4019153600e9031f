#include "engine/lora/targets.h"

#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

ModelConfig Config(int64_t layers = 12) {
  ModelConfig config;
  config.num_layers = layers;
  return config;
}

std::vector<std::string> Paths(const std::vector<std::string>& targets) {
  const absl::StatusOr<std::vector<ModuleId>> modules = MatchTargets(Config(), targets);
  EXPECT_OK(modules.status());
  std::vector<std::string> paths;
  if (modules.ok()) {
    for (const ModuleId id : *modules) paths.push_back(ModulePath(id));
  }
  return paths;
}

TEST(MatchTargetsTest, NamesMatchTheEndOfAPathAfterADot) {
  EXPECT_EQ(Paths({"q_proj"}).size(), 12u);
  EXPECT_EQ(Paths({"q_proj"})[3], "model.layers.3.self_attn.q_proj");
  EXPECT_EQ(Paths({"q_proj", "v_proj", "q_proj"}).size(), 24u);  // a name twice is the same set
  EXPECT_EQ(Paths({"mlp.up_proj"}).size(), 12u);
  // "1.mlp.up_proj" ends layer 1's path and not layer 11's.
  EXPECT_EQ(Paths({"1.mlp.up_proj"}), std::vector<std::string>{"model.layers.1.mlp.up_proj"});
  EXPECT_EQ(Paths({"model.layers.11.mlp.down_proj"}),
            std::vector<std::string>{"model.layers.11.mlp.down_proj"});
}

TEST(MatchTargetsTest, AllLinearInAnyCase) {
  EXPECT_EQ(Paths({"all-linear"}).size(), 12u * kNumProjections);
  EXPECT_EQ(Paths({"ALL-Linear"}), Paths({"all-linear"}));
}

TEST(MatchTargetsTest, AscendingWhateverTheOrder) {
  ASSERT_OK_AND_ASSIGN(const std::vector<ModuleId> modules,
                       MatchTargets(Config(), {"v_proj", "model.layers.5.mlp.up_proj", "k_proj"}));
  for (size_t i = 1; i < modules.size(); ++i) EXPECT_LT(modules[i - 1].index(), modules[i].index());
}

TEST(MatchTargetsTest, RegexMatchesTheWholePath) {
  EXPECT_EQ(Paths({R"(regex:.*\.(q|v)_proj)"}), Paths({"q_proj", "v_proj"}));
  EXPECT_EQ(Paths({R"(regex:model\.layers\.(1|2)\.mlp\.up_proj)"}).size(), 2u);
  EXPECT_EQ(Paths({"regex:.*"}), Paths({"all-linear"}));
  // A match inside the path is not enough; an alternation must reach the end (re.fullmatch).
  EXPECT_THAT(MatchTargets(Config(), {"regex:q_proj"}), StatusIs(kInvalid, "matches no module"));
  EXPECT_EQ(Paths({"regex:.*self_attn|.*self_attn.q_proj"}), Paths({"q_proj"}));
}

TEST(MatchTargetsTest, RefusesWhatMatchesNothingAndSaysWhatThereIs) {
  EXPECT_THAT(MatchTargets(Config(), {"q_proj", "query"}),
              StatusIs(kInvalid,
                       "target \"query\" matches no module; there are q_proj, k_proj, v_proj, "
                       "o_proj, gate_proj, up_proj, down_proj in layers 0 to 11"));
  EXPECT_THAT(MatchTargets(Config(), {"model.layers.12.self_attn.q_proj"}),
              StatusIs(kInvalid, "model.layers.12.self_attn.q_proj"));
  EXPECT_THAT(MatchTargets(Config(), {""}), StatusIs(kInvalid, "target \"\""));
  EXPECT_THAT(MatchTargets(Config(), {}), StatusIs(kInvalid, "0 entries"));
  EXPECT_THAT(MatchTargets(Config(), {"proj"}), StatusIs(kInvalid, "\"proj\""));
  EXPECT_THAT(MatchTargets(Config(), {"q_proj\n\xff"}), StatusIs(kInvalid, "q_proj\\n\\xff"));
  EXPECT_THAT(MatchTargets(Config(), {std::string("q_proj\0", 7)}), StatusIs(kInvalid, "q_proj"));
}

TEST(MatchTargetsTest, RefusesTheHead) {
  for (const char* head : {"lm_head", "model.embed_tokens", "embed_tokens"}) {
    EXPECT_THAT(MatchTargets(Config(), {"q_proj", head}),
                StatusIs(kInvalid, "the output head and the embedding cannot be adapted"));
  }
}

TEST(MatchTargetsTest, RefusesPatternsThatCannotBeUsed) {
  EXPECT_THAT(MatchTargets(Config(), {"regex:(q_proj"}), StatusIs(kInvalid, "at offset 7"));
  EXPECT_THAT(MatchTargets(Config(), {"regex:" + std::string(5000, 'a')}),
              StatusIs(kInvalid, "5000 bytes; the limit is 4096"));
  // Exponential backtracking is cut off, not waited for.
  EXPECT_THAT(MatchTargets(Config(), {R"(regex:(([a-z._0-9])+)+\d\d\d)"}),
              StatusIs(kInvalid, "needs more than 100000 steps"));
  EXPECT_THAT(MatchTargets(Config(), std::vector<std::string>(5000, "q_proj")),
              StatusIs(kInvalid, "5000 entries"));
  std::vector<std::string> regexes;
  for (int i = 0; i < 17; ++i) regexes.push_back("regex:.*" + std::to_string(i) + ".*");
  EXPECT_THAT(MatchTargets(Config(), regexes), StatusIs(kInvalid, "more than 16"));
}

TEST(MatchTargetTest, NothingIsNoError) {
  ASSERT_OK_AND_ASSIGN(const std::vector<ModuleId> modules, MatchTarget(Config(), "query"));
  EXPECT_TRUE(modules.empty());
}

TEST(ShortestTargetsTest, GivesTheSameModulesBack) {
  const std::vector<std::string> cases[] = {{"all-linear"},
                                            {"q_proj", "v_proj"},
                                            {"q_proj", "model.layers.3.mlp.up_proj"},
                                            {"regex:model\\.layers\\.1\\..*"}};
  for (const std::vector<std::string>& targets : cases) {
    ASSERT_OK_AND_ASSIGN(const std::vector<ModuleId> modules, MatchTargets(Config(), targets));
    ASSERT_OK_AND_ASSIGN(const std::vector<ModuleId> again,
                         MatchTargets(Config(), ShortestTargets(Config(), modules)));
    EXPECT_EQ(modules, again);
  }
  ASSERT_OK_AND_ASSIGN(const std::vector<ModuleId> modules,
                       MatchTargets(Config(), {"v_proj", "model.layers.3.mlp.up_proj", "q_proj"}));
  EXPECT_EQ(ShortestTargets(Config(), modules),
            (std::vector<std::string>{"model.layers.3.mlp.up_proj", "q_proj", "v_proj"}));
}

}  // namespace
}  // namespace lorad
