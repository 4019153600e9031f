// Eight steps against PEFT and transformers: losses, gradient norms, the adapter that comes out.
#include <cmath>
#include <iostream>
#include <string>
#include <vector>

#include "engine/lora/adapter.h"
#include "engine/lora/peft.h"
#include "gtest/gtest.h"
#include "tests/support/full_forward.h"
#include "tests/support/status_matchers.h"
#include "tests/train/training_fixture.h"

namespace lorad {
namespace {

class GoldenTrainingTest : public testing::TestWithParam<const char*> {
 protected:
  static std::vector<double> Weights(const HostAdapter& adapter) {
    std::vector<double> weights;
    for (const AdapterModule& module : adapter.modules) {
      weights.insert(weights.end(), module.a.begin(), module.a.end());
      weights.insert(weights.end(), module.b.begin(), module.b.end());
    }
    return weights;
  }

  // Of the reference's batch under `adapter`, against the reference after eight steps.
  static double LogitsError(TrainingFixture& fixture, const HostAdapter& adapter) {
    PackedSequences batch;
    for (const std::vector<int32_t>& row : fixture.GoldenRows("input_ids")) batch.Add(row);
    TestLora lora(adapter, fixture.backend(), batch.num_tokens());
    auto forward = FullForward::Create(fixture.model(), fixture.backend(), batch, adapter.config.r);
    EXPECT_OK(forward.status());
    const absl::StatusOr<std::vector<float>> logits = (*forward)->Logits(&lora);
    EXPECT_OK(logits.status());
    return RelativeError(*logits, fixture.golden().Floats("logits_nf4_lora_step8"));
  }
};

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

TEST_P(GoldenTrainingTest, TheAdapterThatComesOutIsTheReferences) {
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

  // The updates are compared as one vector: Adam divides by the root of the second moment, so a
  // weight whose gradient is almost zero may step either way.
  const std::vector<double> start = Weights(init), end = Weights(expected), ours = Weights(found);
  ASSERT_EQ(ours.size(), end.size());
  double error = 0, update = 0;
  for (size_t i = 0; i < end.size(); ++i) {
    error += std::pow(ours[i] - end[i], 2);
    update += std::pow(end[i] - start[i], 2);
  }
  ASSERT_GT(update, 0);
  const double relative = std::sqrt(error / update);
  std::cout << "update: relative error " << relative << "\n";
  EXPECT_LT(relative, 1e-3);

  const double logits = LogitsError(fixture, found);
  std::cout << "logits_nf4_lora_step8: relative error " << logits << "\n";
  EXPECT_LT(logits, 1e-3);
  EXPECT_GT(LogitsError(fixture, init), 1e-3);  // the comparison can tell them apart
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTrainingTest, testing::ValuesIn(kGoldenModels),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace lorad
