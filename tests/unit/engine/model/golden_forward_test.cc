// The decoder against transformers, PEFT and bitsandbytes: logits and gradients.
#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include "engine/device/backend.h"
#include "engine/lora/peft.h"
#include "engine/model/weights.h"
#include "tests/support/full_forward.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

// fp32 against fp32 in another order of summation: tests/golden/README.md.
constexpr double kLogitsTolerance = 1e-4;
constexpr double kGradientTolerance = 1e-3;
constexpr double kTrainedLogitsTolerance = 1e-3;
constexpr int64_t kRank = 8;

QuantSpec Unquantised() {
  QuantSpec quant;
  quant.format = QuantFormat::kNone;
  return quant;
}

// The three rows of the reference's batch, each a sequence of its own.
PackedSequences Batch(const Golden& golden) {
  const Shape shape = golden.View("input_ids").shape;
  const std::vector<int32_t> ids = golden.Ints("input_ids"), labels = golden.Ints("labels");
  PackedSequences batch;
  for (int64_t row = 0; row < shape[0]; ++row) {
    const auto slice = [&](const std::vector<int32_t>& values) {
      return std::vector<int32_t>(values.begin() + row * shape[1],
                                  values.begin() + (row + 1) * shape[1]);
    };
    batch.Add(slice(ids), slice(labels));
  }
  return batch;
}

class GoldenForwardTest : public testing::TestWithParam<const char*> {
 protected:
  // Relative error of the logits against the reference's tensor `name`.
  double LogitsError(const QuantSpec& quant, const std::string& adapter_name,
                     const std::string& name) {
    Load(quant);
    std::unique_ptr<TestLora> lora;
    if (!adapter_name.empty()) lora = ReadLora(adapter_name);
    const absl::StatusOr<std::vector<float>> logits = forward_->Logits(lora.get());
    EXPECT_OK(logits.status());
    const double error = logits.ok() ? RelativeError(*logits, golden_.Floats(name)) : INFINITY;
    std::cout << name << ": relative error " << error << "\n";
    return error;
  }

  void Load(const QuantSpec& quant) {
    ASSERT_OK_AND_ASSIGN(model_, Model::Load(golden_.model_dir(), quant, *backend_));
    ASSERT_OK_AND_ASSIGN(forward_, FullForward::Create(model_, *backend_, Batch(golden_), kRank));
  }
  std::unique_ptr<TestLora> ReadLora(const std::string& name) {
    const absl::StatusOr<HostAdapter> adapter =
        ReadPeftAdapter(golden_.AdapterDir(name), model_->config());
    EXPECT_OK(adapter.status());
    return std::make_unique<TestLora>(*adapter, *backend_, Batch(golden_).num_tokens());
  }

  const Golden golden_{GetParam()};
  const std::unique_ptr<Backend> backend_ = CreateCpuBackend();
  std::shared_ptr<const Model> model_;
  std::unique_ptr<FullForward> forward_;
};

TEST_P(GoldenForwardTest, LogitsOf16BitWeights) {
  EXPECT_LT(LogitsError(Unquantised(), "", "logits_fp32"), kLogitsTolerance);
}

TEST_P(GoldenForwardTest, LogitsOfNf4) {
  EXPECT_LT(LogitsError(QuantSpec(), "", "logits_nf4"), kLogitsTolerance);
}

TEST_P(GoldenForwardTest, LogitsOfNf4WithAnAdapter) {
  EXPECT_LT(LogitsError(QuantSpec(), "adapter_init", "logits_nf4_lora"), kLogitsTolerance);
}

TEST_P(GoldenForwardTest, LogitsOfNf4WithTheTrainedAdapter) {
  EXPECT_LT(LogitsError(QuantSpec(), "adapter_step8", "logits_nf4_lora_step8"),
            kTrainedLogitsTolerance);
}

TEST_P(GoldenForwardTest, TheReferencesDiffer) {
  // Otherwise the tests above could pass without quantisation or adapter.
  const auto differ = [&](const char* a, const char* b) {
    return RelativeError(golden_.Floats(a), golden_.Floats(b));
  };
  EXPECT_GT(differ("logits_nf4", "logits_fp32"), 10 * kLogitsTolerance);
  EXPECT_GT(differ("logits_nf4_lora", "logits_nf4"), 10 * kLogitsTolerance);
  EXPECT_GT(differ("logits_nf4_lora_step8", "logits_nf4_lora"), 10 * kTrainedLogitsTolerance);
}

TEST_P(GoldenForwardTest, FirstLossAndItsGradients) {
  Load(QuantSpec());
  const std::unique_ptr<TestLora> lora = ReadLora("adapter_init");
  ASSERT_OK_AND_ASSIGN(const double loss, forward_->Loss(lora.get(), /*backward=*/true));
  const float expected = golden_.Floats("losses")[0];
  EXPECT_NEAR(loss, expected, kLogitsTolerance * expected);
  ASSERT_EQ(lora->num_modules(), model_->config().num_layers * kNumProjections);
  double largest = 0;
  for (size_t m = 0; m < lora->num_modules(); ++m) {
    const std::string name = "grad0." + ModulePath(lora->id(m));
    const LoraSegment& segment = lora->segment(m);
    const double a = RelativeError(ToFloats(segment.da), golden_.Floats(name + ".lora_A.weight"));
    const double b = RelativeError(ToFloats(segment.db), golden_.Floats(name + ".lora_B.weight"));
    EXPECT_LT(a, kGradientTolerance) << name;
    EXPECT_LT(b, kGradientTolerance) << name;
    largest = std::max({largest, a, b});
  }
  std::cout << "grad0: largest relative error of a tensor " << largest << "\n";
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenForwardTest, testing::ValuesIn(kGoldenModels),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace lorad
