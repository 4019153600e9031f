// Eight steps against PEFT and transformers: losses, gradient norms, the adapter that comes out.
#include <cmath>
#include <string>
#include <vector>

#include "engine/lora/adapter.h"
#include "engine/lora/peft.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/train/training_fixture.h"

namespace lorad {
namespace {

class GoldenTrainingTest : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTrainingTest, LossesAndGradientNormsAreTheReferences) {
  TrainingFixture fixture(GetParam());
  const auto sink = fixture.Run(fixture.GoldenSpec(fixture.WriteGoldenRows()));
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  const std::vector<float> losses = fixture.golden().Floats("losses"),
                           norms = fixture.golden().Floats("grad_norms");
  ASSERT_EQ(sink->steps.size(), losses.size());
  ASSERT_EQ(losses.size(), 8u);
  for (size_t i = 0; i < losses.size(); ++i) {
    EXPECT_NEAR(sink->steps[i].loss, losses[i], 1e-4 * losses[i]) << "step " << i;
    EXPECT_NEAR(sink->steps[i].grad_norm, norms[i], 1e-3 * norms[i]) << "step " << i;
    EXPECT_EQ(sink->steps[i].learning_rate, 1e-3);
    EXPECT_EQ(sink->steps[i].tokens, 144);
  }
}

// Adam divides by the root of the second moment, so where a gradient is nearly zero its rounding
// decides the sign of a step of up to the learning rate. The share of such weights is bounded, and
// the whole update compared by its norm.
TEST_P(GoldenTrainingTest, AdapterIsTheReferences) {
  TrainingFixture fixture(GetParam());
  const TrainingSpec spec = fixture.GoldenSpec(fixture.WriteGoldenRows());
  const auto sink = fixture.Run(spec);
  ASSERT_TRUE(sink->result.has_value()) << sink->error;
  const ModelConfig& config = fixture.model()->config();
  ASSERT_OK_AND_ASSIGN(const HostAdapter found, ReadPeftAdapter(spec.output_dir, config));
  ASSERT_OK_AND_ASSIGN(const HostAdapter init,
                       ReadPeftAdapter(fixture.golden().AdapterDir("adapter_init"), config));
  ASSERT_OK_AND_ASSIGN(const HostAdapter expected,
                       ReadPeftAdapter(fixture.golden().AdapterDir("adapter_step8"), config));
  EXPECT_EQ(AdapterDigest(found), sink->result->adapter_id);
  ASSERT_EQ(found.modules.size(), expected.modules.size());
  double error = 0, update = 0;
  for (size_t i = 0; i < expected.modules.size(); ++i) {
    const auto add = [&](const std::vector<float>& x, const std::vector<float>& y,
                         const std::vector<float>& start) {
      ASSERT_EQ(x.size(), y.size());
      for (size_t j = 0; j < x.size(); ++j) {
        error += std::pow(double{x[j]} - y[j], 2);
        update += std::pow(double{y[j]} - start[j], 2);
      }
    };
    add(found.modules[i].a, expected.modules[i].a, init.modules[i].a);
    add(found.modules[i].b, expected.modules[i].b, init.modules[i].b);
  }
  ASSERT_GT(update, 0);
  EXPECT_LT(std::sqrt(error / update), 1e-2);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTrainingTest, testing::ValuesIn(kGoldenModels),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace lorad
