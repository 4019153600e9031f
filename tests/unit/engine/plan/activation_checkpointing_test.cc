#include "engine/plan/activation_checkpointing.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

// First layer of each segment.
std::vector<int64_t> Begins(int64_t num_layers, const ActivationCheckpointing& checkpointing) {
  const LayerSegments segments(num_layers, checkpointing);
  std::vector<int64_t> begins;
  int64_t longest = 0;
  for (int64_t layer = 0; layer < num_layers; layer = segments.End(layer)) {
    begins.push_back(layer);
    longest = std::max(longest, segments.End(layer) - layer);
    for (int64_t in = layer; in < segments.End(layer); ++in) {
      EXPECT_EQ(segments.Begin(in), layer);
      EXPECT_EQ(segments.End(in), segments.End(layer));
      EXPECT_EQ(segments.Index(in), static_cast<int64_t>(begins.size()) - 1);
      EXPECT_EQ(segments.IsLast(in), segments.Index(in) == segments.count() - 1);
    }
  }
  EXPECT_EQ(segments.count(), static_cast<int64_t>(begins.size()));
  EXPECT_EQ(segments.longest(), longest);
  return begins;
}

TEST(ActivationCheckpointingTest, SegmentsCoverAllLayers) {
  using Layers = std::vector<int64_t>;
  EXPECT_EQ(Begins(5, {.layers_per_segment = 1}), (Layers{0, 1, 2, 3, 4}));
  EXPECT_EQ(Begins(5, {.layers_per_segment = 2}), (Layers{0, 2, 4}));
  EXPECT_EQ(Begins(4, {.layers_per_segment = 2}), (Layers{0, 2}));
  EXPECT_EQ(Begins(5, {.layers_per_segment = 5}), (Layers{0}));
  EXPECT_EQ(Begins(1, {.layers_per_segment = 1}), (Layers{0}));
  EXPECT_EQ(Begins(5, {.layers_per_segment = 1, .kept_layers = 3}), (Layers{0, 1, 2}));
  EXPECT_EQ(Begins(5, {.layers_per_segment = 1, .kept_layers = 5}), (Layers{0}));
  EXPECT_EQ(Begins(7, {.layers_per_segment = 3, .kept_layers = 2}), (Layers{0, 3, 5}));
}

TEST(ActivationCheckpointingTest, PoliciesGiveSegments) {
  const struct {
    const char* policy;
    int64_t layers, per_segment;
    bool offload = false, fits_to_memory = false;
  } cases[] = {{"none", 32, 32},
               {"every_layer", 32, 1},
               {"every_k:1", 32, 1},
               {"every_k:5", 32, 5},
               {"every_k:99", 32, 32},
               {"sqrt", 1, 1},
               {"sqrt", 16, 4},
               {"sqrt", 17, 5},
               {"sqrt", 32, 6},
               {"offload", 32, 1, true},
               {"auto", 32, 1, false, true}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.policy);
    ASSERT_OK_AND_ASSIGN(const ActivationPolicy policy, ParseActivationPolicy(c.policy, c.layers));
    EXPECT_EQ(policy.checkpointing.layers_per_segment, c.per_segment);
    EXPECT_EQ(policy.checkpointing.kept_layers, 0);
    EXPECT_EQ(policy.checkpointing.offload, c.offload);
    EXPECT_EQ(policy.checkpointing.keeps_act, std::string(c.policy) == "none");
    EXPECT_EQ(policy.fits_to_memory, c.fits_to_memory);
  }
}

TEST(ActivationCheckpointingTest, NamesAnUnknownPolicy) {
  for (const char* policy : {"", "all", "None", "every_k", "every_k:", "every_k:0", "every_k:-1",
                             "every_k:2x", "every_k:99999999999999999999", "auto:2"}) {
    EXPECT_THAT(ParseActivationPolicy(policy, 4),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         std::string("activation_checkpointing is \"") + policy + "\""));
  }
}

TEST(ActivationCheckpointingTest, SaysWhatIsKept) {
  EXPECT_EQ(Describe({.layers_per_segment = 4, .keeps_act = true}, 4), "all 4 layers kept");
  EXPECT_EQ(Describe({.layers_per_segment = 4}, 4), "all 4 layers kept but silu(gate) * up");
  EXPECT_EQ(Describe({.layers_per_segment = 1, .kept_layers = 3}, 4),
            "3 of 4 layers kept, the rest computed again in segments of 1");
  EXPECT_EQ(Describe({.layers_per_segment = 1, .offload = true}, 4),
            "1 of 4 layers kept, the rest computed again in segments of 1; inputs in host memory");
}

}  // namespace
}  // namespace lorad
