// Random models: laid out as a loaded one, their quantised values those of the 16-bit one, of a
// size that keeps activations normal.
#include "engine/model/random_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/device/backend.h"
#include "engine/model/config.h"
#include "engine/ops/ops.h"
#include "engine/plan/memory.h"
#include "engine/quant/code_book.h"
#include "tests/support/full_forward.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

constexpr QuantSpec kDense{.format = QuantFormat::kNone, .block = 64, .double_quant = false};

// Several groups of the second quantisation in a matrix, the last one not whole; grouped heads.
ModelConfig SmallConfig() {
  TinyModelOptions options;
  options.hidden = 192;
  options.intermediate = 520;
  options.heads = 6;
  options.head_dim = 32;
  options.layers = 6;
  options.vocab = 101;
  options.attention_bias = true;
  return TinyModel(options).ParsedConfig();
}

// The tensors of a model in a fixed order.
std::vector<ConstTensorView> Tensors(const Model& model) {
  std::vector<ConstTensorView> all = {model.embedding(), model.head().dense, model.final_norm(),
                                      model.rope_inv_freq()};
  for (int64_t i = 0; i < model.config().num_layers; ++i) {
    const LayerWeights& layer = model.layer(i);
    all.push_back(layer.input_norm);
    all.push_back(layer.post_attention_norm);
    for (const LinearWeights& linear : layer.linear) {
      const WeightView& weight = linear.weight;
      for (const ConstTensorView& part :
           {weight.dense, weight.codes, weight.code_book, weight.scales, weight.scales_u8,
            weight.nested_scales, weight.nested_code, linear.bias})
        all.push_back(part);
    }
  }
  return all;
}

std::string Bytes(const Model& model) {
  std::string bytes;
  for (const ConstTensorView& tensor : Tensors(model)) {
    if (!tensor.empty()) bytes.append(static_cast<const char*>(tensor.data), tensor.size_bytes());
  }
  return bytes;
}

double MeanSquare(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * value;
  return sum / static_cast<double>(values.size());
}

class RandomModelTest : public testing::Test {
 protected:
  std::shared_ptr<const Model> Make(const ModelConfig& config, const QuantSpec& quant,
                                    uint64_t seed = 1) {
    absl::StatusOr<std::shared_ptr<const Model>> model =
        RandomModel(config, quant, seed, *backend_);
    EXPECT_OK(model.status());
    LORAD_CHECK(model.ok());
    return *std::move(model);
  }

  std::vector<float> Values(const WeightView& weight) {
    std::vector<float> values(weight.num_elements());
    const TensorView out = {values.data(), DType::kF32, {weight.out_features, weight.in_features}};
    const std::unique_ptr<Stream> stream = *backend_->CreateStream();
    EXPECT_OK(backend_->ops().Dequantize({.weight = weight, .out = out}, *stream));
    EXPECT_OK(stream->Synchronize());
    return values;
  }

  // ||quantised - dense|| / ||dense|| of one linear of two models.
  double QuantisationError(const Model& quantised, const Model& dense, int64_t layer,
                           Projection projection) {
    std::vector<float> difference = Values(quantised.layer(layer)[projection].weight);
    const std::vector<float> expected = Values(dense.layer(layer)[projection].weight);
    for (size_t i = 0; i < expected.size(); ++i) difference[i] -= expected[i];
    return std::sqrt(MeanSquare(difference) / MeanSquare(expected));
  }

  const std::unique_ptr<Backend> backend_ = CreateCpuBackend();
};

const QuantSpec kSpecs[] = {
    kDense,
    {},
    {.format = QuantFormat::kNf4, .block = 128, .double_quant = false},
    {.format = QuantFormat::kInt8, .block = 64, .double_quant = true},
};

TEST_F(RandomModelTest, IsLaidOutAsALoadedModel) {
  for (const bool tied : {false, true}) {
    TinyModelOptions options;
    options.tied = tied;
    options.attention_bias = !tied;
    options.mlp_bias = tied;
    const TinyModel tiny(options);
    const TempDir dir;
    tiny.Write(dir.path());
    for (const QuantSpec& quant : kSpecs) {
      const std::shared_ptr<const Model> random = Make(tiny.ParsedConfig(), quant);
      ASSERT_OK_AND_ASSIGN(const std::shared_ptr<const Model> loaded,
                           Model::Load(dir.path(), quant, *backend_));
      EXPECT_EQ(random->quant(), quant);
      EXPECT_EQ(random->weight_bytes(), loaded->weight_bytes());
      EXPECT_EQ(random->weight_bytes(), ModelWeightBytes(random->config(), quant));
      EXPECT_EQ(random->num_parameters(), loaded->num_parameters());
      EXPECT_EQ(random->head().dense.data == random->embedding().data, tied);
      const std::vector<ConstTensorView> found = Tensors(*random), expected = Tensors(*loaded);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        EXPECT_EQ(found[i].empty(), expected[i].empty()) << i;
        EXPECT_EQ(found[i].dtype, expected[i].dtype) << i;
        EXPECT_EQ(found[i].shape, expected[i].shape) << i;
      }
    }
  }
}

TEST_F(RandomModelTest, IsAFunctionOfTheSeed) {
  for (const QuantSpec& quant : kSpecs) {
    const std::string bytes = Bytes(*Make(SmallConfig(), quant, 7));
    EXPECT_EQ(bytes, Bytes(*Make(SmallConfig(), quant, 7)));
    EXPECT_NE(bytes, Bytes(*Make(SmallConfig(), quant, 8)));
  }
  EXPECT_EQ(Make(SmallConfig(), {}, 7)->digest(), "random 7");
}

TEST_F(RandomModelTest, LayersDiffer) {
  const std::shared_ptr<const Model> model = Make(SmallConfig(), {});
  std::set<std::string> codes;
  for (int64_t i = 0; i < model->config().num_layers; ++i) {
    const ConstTensorView view = model->layer(i)[Projection::kDown].weight.codes;
    codes.emplace(static_cast<const char*>(view.data), view.size_bytes());
  }
  EXPECT_GE(codes.size(), 3u);
}

// Pieces of both models come from the same places, so a quantised linear is near the 16-bit one.
// An error is at most half the widest gap of the code book times absmax, and the absmax of 64
// normal numbers is about 2.4 deviations: 3.1, sqrt(2 ln 128), bounds its mean. Scales in 8 bits
// add less than 2 %: half the widest gap of the dynamic map, 0.007, of the group's largest
// |absmax - mean|, below two deviations. bf16 adds 2^-9. Codes and scales that do not belong
// together, or come from other places, give 0.5 and more.
TEST_F(RandomModelTest, QuantisedValuesAreThoseOfTheDenseModel) {
  const std::shared_ptr<const Model> dense = Make(SmallConfig(), kDense);
  for (const QuantFormat format : {QuantFormat::kNf4, QuantFormat::kInt8}) {
    std::vector<float> book = CodeBook(format);
    if (format == QuantFormat::kInt8) book.erase(book.begin());  // not used
    float gap = 0;
    for (size_t i = 1; i < book.size(); ++i) gap = std::max(gap, book[i] - book[i - 1]);
    for (const bool double_quant : {false, true}) {
      const std::shared_ptr<const Model> quantised =
          Make(SmallConfig(), {.format = format, .block = 64, .double_quant = double_quant});
      for (int64_t layer = 0; layer < 2; ++layer) {
        for (const Projection p : kAllProjections)
          EXPECT_LT(QuantisationError(*quantised, *dense, layer, p), 3.1 * gap / 2 + 0.024)
              << ProjectionName(p);
      }
    }
  }
}

// 16 M elements of one matrix: more than the 8 M of a piece.
TEST_F(RandomModelTest, LargeMatricesTakeSeveralPieces) {
  ModelConfig config = SmallConfig();
  config.hidden_size = 64;
  config.intermediate_size = (int64_t{1} << 17) + 600;
  config.num_layers = 1;
  const std::shared_ptr<const Model> dense = Make(config, kDense), quantised = Make(config, {});
  const std::vector<float> found = Values(quantised->layer(0)[Projection::kUp].weight);
  const std::vector<float> expected = Values(dense->layer(0)[Projection::kUp].weight);
  // The last piece by itself: it is 0.5 % of the matrix.
  double error = 0, size = 0;
  for (size_t i = size_t{1} << 23; i < found.size(); ++i) {
    error += std::pow(double{found[i]} - expected[i], 2);
    size += std::pow(double{expected[i]}, 2);
  }
  EXPECT_GT(size, 0);
  EXPECT_LT(std::sqrt(error / size), 0.3);  // nf4 is about 0.09, another place 1.4
  EXPECT_LT(QuantisationError(*quantised, *dense, 0, Projection::kDown), 0.3);
}

// Linears have mean square 1 / in_features. Of n normal numbers it is known to sqrt(2 / n), 1.3 %
// for k_proj's 64 * 192, the smallest; five times that, and 5 % for what nf4 changes of it.
TEST_F(RandomModelTest, WeightsHaveTheirDeviation) {
  const std::shared_ptr<const Model> model = Make(SmallConfig(), {});
  for (const Projection p : kAllProjections) {
    const WeightView& weight = model->layer(0)[p].weight;
    EXPECT_NEAR(MeanSquare(Values(weight)) * static_cast<double>(weight.in_features), 1, 0.12)
        << ProjectionName(p);
  }
  const std::vector<float> head = Values(model->head());
  EXPECT_NEAR(std::sqrt(MeanSquare(head)), kRandomStddev, 0.1 * kRandomStddev);
  const auto* gamma = static_cast<const float*>(model->final_norm().data);
  EXPECT_EQ(gamma[0], 1);
  EXPECT_EQ(gamma[191], 1);
}

// Logits of a row have variance hidden * kRandomStddev^2 = 0.077, so the loss of 64 tokens is
// log(vocab) + 0.04 less the mean of 64 targets' logits, 0.035 in deviation: five of them.
TEST_F(RandomModelTest, LossIsThatOfARandomModel) {
  const ModelConfig config = SmallConfig();
  for (const QuantSpec& quant : kSpecs) {
    PackedSequences batch;
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < 65; ++i) tokens.push_back(i * 37 % 101);
    batch.Add(tokens, tokens);
    ASSERT_OK_AND_ASSIGN(
        const std::unique_ptr<FullForward> forward,
        FullForward::Create(Make(config, quant), *backend_, std::move(batch), /*max_rank=*/1));
    ASSERT_OK_AND_ASSIGN(const double loss, forward->Loss(nullptr, /*backward=*/false));
    EXPECT_NEAR(loss, std::log(101) + 0.04, 0.18);
    ASSERT_OK_AND_ASSIGN(const std::vector<float> logits, forward->Logits(nullptr));
    EXPECT_TRUE(
        std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }));
    EXPECT_NEAR(MeanSquare(logits), 0.077, 0.04);
  }
}

TEST_F(RandomModelTest, TakesTheConfigOfACheckpoint) {
  for (const char* name : kGoldenModels) {
    const Golden golden(name);
    ASSERT_OK_AND_ASSIGN(const ModelConfig config, LoadModelConfig(golden.model_dir()));
    ASSERT_OK_AND_ASSIGN(const std::shared_ptr<const Model> loaded,
                         Model::Load(golden.model_dir(), {}, *backend_));
    const std::shared_ptr<const Model> random = Make(config, {});
    EXPECT_EQ(random->num_parameters(), loaded->num_parameters());
    EXPECT_EQ(random->weight_bytes(), loaded->weight_bytes());
    EXPECT_EQ(0, std::memcmp(random->rope_inv_freq().data, loaded->rope_inv_freq().data,
                             loaded->rope_inv_freq().size_bytes()));
  }
}

TEST_F(RandomModelTest, FailsWithoutKeepingMemory) {
  QuantSpec quant;
  quant.block = 48;
  EXPECT_THAT(RandomModel(SmallConfig(), quant, 1, *backend_),
              StatusIs(absl::StatusCode::kInvalidArgument, "48"));
  // Room for all but the last layer.
  backend_->allocator().SetLimit(MemoryTag::kWeights, ModelWeightBytes(SmallConfig(), {}) - 1);
  EXPECT_THAT(RandomModel(SmallConfig(), {}, 1, *backend_),
              StatusIs(absl::StatusCode::kResourceExhausted, "weights"));
  EXPECT_EQ(backend_->allocator().Usage(MemoryTag::kWeights).used_bytes, 0);
}

}  // namespace
}  // namespace lorad
