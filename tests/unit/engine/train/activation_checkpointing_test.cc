#include "engine/train/activation_checkpointing.h"

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

TEST(ActivationCheckpointingTest, PoliciesGiveLayersPerSegment) {
  const struct {
    const char* policy;
    int64_t layers, expected;
  } cases[] = {{"none", 32, 32},     {"every_layer", 32, 1}, {"every_k:1", 32, 1},
               {"every_k:5", 32, 5}, {"every_k:99", 32, 32}, {"sqrt", 1, 1},
               {"sqrt", 16, 4},      {"sqrt", 17, 5},        {"sqrt", 32, 6}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.policy);
    ASSERT_OK_AND_ASSIGN(const int64_t layers, LayersPerSegment(c.policy, c.layers));
    EXPECT_EQ(layers, c.expected);
  }
}

TEST(ActivationCheckpointingTest, NamesAnUnknownPolicy) {
  for (const char* policy : {"", "all", "None", "every_k", "every_k:", "every_k:0", "every_k:-1",
                             "every_k:2x", "every_k:99999999999999999999"}) {
    EXPECT_THAT(LayersPerSegment(policy, 4),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         std::string("activation_checkpointing is \"") + policy + "\""));
  }
}

}  // namespace
}  // namespace lorad
