// The hand-written backward pass of the whole decoder against finite differences, in double
// precision: two layers, grouped heads, biases, packed sequences, LoRA with dropout on every linear
// layer.
//
// The central difference (L(p + h) - L(p - h)) / 2h errs by h^2 |L'''| / 6 from truncation and by
// about eps |L| / h from rounding. With h = eps^(1/3) = 6e-6, |L| and its derivatives of the order
// of 10, both are below 1e-9; a tolerance of 1e-7 of the largest gradient leaves room for steep
// places and is far below the 1e-3 at which a wrong term would show.
#include <cmath>
#include <string>
#include <vector>

#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "tests/support/full_forward.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

constexpr double kStep = 6e-6;
constexpr double kTolerance = 1e-7;

struct Case {
  std::string name;
  TinyModelOptions model;
  QuantFormat format = QuantFormat::kNf4;
  float dropout = 0;
};

std::vector<Case> Cases() {
  Case llama{.name = "llama_gqa_nf4_dropout", .model = {}, .dropout = 0.25f};
  Case biases{.name = "llama_all_biases_tied", .model = {}, .format = QuantFormat::kNone};
  biases.model.attention_bias = biases.model.mlp_bias = biases.model.tied = true;
  biases.model.head_dim = 6;  // heads * head_dim differs from hidden
  Case qwen2{.name = "qwen2_int8", .model = {}, .format = QuantFormat::kInt8, .dropout = 0.5f};
  qwen2.model.architecture = "Qwen2ForCausalLM";
  qwen2.model.kv_heads = 1;
  return {llama, biases, qwen2};
}

// Three sequences, one of a single token; 8 targets, so that their inverse is exact in float.
PackedSequences Batch() {
  PackedSequences batch;
  batch.Add({3, 17, 5, 9, 30, 2}, {3, -100, 5, 9, 30, 2});
  batch.Add({7});
  batch.Add({11, 11, 4, 25, 39}, {11, 11, 4, 25, 39});
  return batch;
}

class DecoderGradientTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const TinyModel tiny(GetParam().model);
    tiny.Write(dir_.path());
    QuantSpec quant;
    quant.format = GetParam().format;
    ASSERT_OK_AND_ASSIGN(model_, Model::Load(dir_.path(), quant, *backend_));
    ASSERT_EQ(Batch().num_targets(), 8);
    ASSERT_OK_AND_ASSIGN(forward_, FullForward::Create(model_, *backend_, Batch(), /*max_rank=*/3));
    const HostAdapter adapter = RandomAdapter(model_->config(), {2, 3, 1}, /*seed=*/5);
    LoraDropout dropout;
    dropout.probability = GetParam().dropout;
    dropout.seed = 99;
    dropout.step = 4;
    lora_ = std::make_unique<TestLora>(adapter, *backend_, Batch().num_tokens(), dropout);
    ASSERT_OK_AND_ASSIGN(loss_, forward_->Loss(lora_.get(), /*backward=*/true));
  }

  double LossAt(const TensorView& parameter, int64_t index, double value) {
    const double before = GetElement(parameter, index);
    SetElement(parameter, index, value);
    const absl::StatusOr<double> loss = forward_->Loss(lora_.get(), /*backward=*/false);
    SetElement(parameter, index, before);
    EXPECT_OK(loss.status());
    return loss.ok() ? *loss : NAN;
  }
  double Difference(const TensorView& parameter, int64_t index) {
    const double value = GetElement(parameter, index);
    return (LossAt(parameter, index, value + kStep) - LossAt(parameter, index, value - kStep)) /
           (2 * kStep);
  }
  static double Largest(const TensorView& gradient) {
    double largest = 0;
    for (int64_t i = 0; i < gradient.num_elements(); ++i)
      largest = std::max(largest, std::abs(GetElement(gradient, i)));
    return largest;
  }
  // A few elements of one tensor, spread over it.
  void CheckTensor(const TensorView& parameter, const TensorView& gradient,
                   const std::string& name) {
    const double largest = Largest(gradient);
    EXPECT_GT(largest, 1e-6) << name << " has no gradient to speak of";
    const int64_t count = gradient.num_elements();
    for (int64_t i = 0; i < count; i += std::max<int64_t>(count / 5, 1)) {
      EXPECT_NEAR(GetElement(gradient, i), Difference(parameter, i), kTolerance * largest)
          << name << " element " << i;
    }
  }

  const TempDir dir_;
  const std::unique_ptr<Backend> backend_ = CreateCpuBackend({.double_precision = true});
  std::shared_ptr<const Model> model_;
  std::unique_ptr<FullForward> forward_;
  std::unique_ptr<TestLora> lora_;
  double loss_ = 0;
};

TEST_P(DecoderGradientTest, EveryTensorByElements) {
  ASSERT_EQ(lora_->num_modules(), 2 * kNumProjections);
  for (size_t m = 0; m < lora_->num_modules(); ++m) {
    const LoraSegment segment = lora_->segment(m);
    const auto parameter = [](const ConstTensorView& view) {
      return TensorView{const_cast<void*>(view.data), view.dtype, view.shape};
    };
    CheckTensor(parameter(segment.a), segment.da, ModulePath(lora_->id(m)) + " A");
    CheckTensor(parameter(segment.b), segment.db, ModulePath(lora_->id(m)) + " B");
  }
}

// All parameters at once along one direction: no element is left out.
TEST_P(DecoderGradientTest, AlongADirection) {
  std::vector<std::pair<TensorView, std::vector<double>>> parameters;
  double expected = 0;
  for (size_t m = 0; m < lora_->num_modules(); ++m) {
    const LoraSegment segment = lora_->segment(m);
    for (const auto& [view, gradient] :
         {std::pair(segment.a, segment.da), std::pair(segment.b, segment.db)}) {
      const std::vector<float> direction = RandomValues(view.num_elements(), 1, 7 * m + 1);
      for (int64_t i = 0; i < view.num_elements(); ++i)
        expected += GetElement(gradient, i) * direction[i];
      parameters.push_back({TensorView{const_cast<void*>(view.data), view.dtype, view.shape},
                            std::vector<double>(direction.begin(), direction.end())});
    }
  }
  const auto move = [&](double step) {
    for (const auto& [view, direction] : parameters) {
      for (int64_t i = 0; i < view.num_elements(); ++i)
        SetElement(view, i, GetElement(view, i) + step * direction[i]);
    }
  };
  move(kStep);
  ASSERT_OK_AND_ASSIGN(const double ahead, forward_->Loss(lora_.get(), /*backward=*/false));
  move(-2 * kStep);
  ASSERT_OK_AND_ASSIGN(const double behind, forward_->Loss(lora_.get(), /*backward=*/false));
  EXPECT_GT(std::abs(expected), 1e-3);
  EXPECT_NEAR((ahead - behind) / (2 * kStep), expected, 1e-6 * std::abs(expected) + 1e-8);
}

// Gradients are added to what is there, and the same call gives the same bits.
TEST_P(DecoderGradientTest, GradientsAccumulate) {
  const LoraSegment segment = lora_->segment(0);
  std::vector<double> once;
  for (int64_t i = 0; i < segment.da.num_elements(); ++i) once.push_back(GetElement(segment.da, i));
  ASSERT_OK_AND_ASSIGN(const double again, forward_->Loss(lora_.get(), /*backward=*/true));
  EXPECT_EQ(again, loss_);
  for (size_t i = 0; i < once.size(); ++i)
    EXPECT_NEAR(GetElement(segment.da, i), 2 * once[i], 1e-12 * Largest(segment.da));
}

INSTANTIATE_TEST_SUITE_P(Decoders, DecoderGradientTest, testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorad
