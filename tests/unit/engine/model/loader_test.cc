#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "engine/core/float16.h"
#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "engine/ops/ops.h"
#include "engine/plan/memory.h"
#include "engine/quant/quant.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

QuantSpec Spec(QuantFormat format, bool double_quant = true) {
  QuantSpec spec;
  spec.format = format;
  spec.double_quant = double_quant;
  return spec;
}

class LoaderTest : public testing::Test {
 protected:
  absl::StatusOr<std::shared_ptr<const Model>> Load(const TinyModel& tiny,
                                                    const QuantSpec& quant = {}, int shards = 1) {
    const TempDir dir;
    tiny.Write(dir.path(), shards);
    return Model::Load(dir.path(), quant, *backend_);
  }
  int64_t UsedBytes() { return backend_->allocator().Usage(MemoryTag::kWeights).used_bytes; }

  std::vector<float> Dequantized(const WeightView& weight) {
    std::vector<float> values(weight.num_elements());
    const std::unique_ptr<Stream> stream = *backend_->CreateStream();
    EXPECT_OK(backend_->ops().Dequantize(
        {weight, {values.data(), DType::kF32, {weight.out_features, weight.in_features}}},
        *stream));
    return values;
  }

  const std::unique_ptr<Backend> backend_ = CreateCpuBackend();
};

std::vector<float> Floats(const ConstTensorView& view) {
  std::vector<float> values(view.num_elements());
  for (int64_t i = 0; i < view.num_elements(); ++i) {
    values[i] = view.dtype == DType::kBF16 ? ToFloat(view.as<BFloat16>()[i]) : view.as<float>()[i];
  }
  return values;
}

TEST_F(LoaderTest, SixteenBitWeightsAreTheFiles) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    TinyModelOptions options;
    options.dtype = dtype;
    options.attention_bias = options.mlp_bias = true;
    const TinyModel tiny(options);
    ASSERT_OK_AND_ASSIGN(const auto model, Load(tiny, Spec(QuantFormat::kNone)));
    EXPECT_EQ(Floats(model->embedding()), tiny.Values("model.embed_tokens.weight"));
    EXPECT_EQ(Floats(model->head().dense), tiny.Values("lm_head.weight"));
    EXPECT_EQ(Floats(model->final_norm()), tiny.Values("model.norm.weight"));
    EXPECT_EQ(Floats(model->rope_inv_freq()), RopeInverseFrequencies(model->config()));
    for (int32_t layer = 0; layer < 2; ++layer) {
      const LayerWeights& weights = model->layer(layer);
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      EXPECT_EQ(Floats(weights.input_norm), tiny.Values(prefix + "input_layernorm.weight"));
      EXPECT_EQ(Floats(weights.post_attention_norm),
                tiny.Values(prefix + "post_attention_layernorm.weight"));
      for (const Projection projection : kAllProjections) {
        const std::string path = ModulePath({layer, projection});
        EXPECT_EQ(Floats(weights[projection].weight.dense), tiny.Values(path + ".weight")) << path;
        EXPECT_EQ(Floats(weights[projection].bias), tiny.Values(path + ".bias")) << path;
      }
    }
    int64_t parameters = 0;
    for (const auto& [name, tensor] : tiny.tensors)
      parameters += static_cast<int64_t>(tensor.bytes.size()) / SizeOf(tensor.dtype);
    EXPECT_EQ(model->num_parameters(), parameters);
  }
}

TEST_F(LoaderTest, QuantisesAsQuantizeDoes) {
  TinyModelOptions options;
  options.intermediate = 47;  // odd numbers of elements and a last block that is not full
  options.hidden = 33;
  options.vocab = 16;
  const TinyModel tiny(options);
  for (const QuantSpec& spec :
       {Spec(QuantFormat::kNf4), Spec(QuantFormat::kNf4, false), Spec(QuantFormat::kInt8),
        Spec(QuantFormat::kFp4), Spec(QuantFormat::kInt4, false)}) {
    ASSERT_OK_AND_ASSIGN(const auto model, Load(tiny, spec));
    EXPECT_EQ(model->quant(), spec);
    for (const Projection projection : kAllProjections) {
      const WeightView& weight = model->layer(1)[projection].weight;
      const std::vector<float> values = tiny.Values(ModulePath({1, projection}) + ".weight");
      const QuantizedMatrix expected =
          Quantize(spec, weight.out_features, weight.in_features, values.data());
      EXPECT_EQ(std::memcmp(weight.codes.data, expected.codes.data(), expected.codes.size()), 0);
      EXPECT_EQ(Dequantized(weight), Dequantized(expected.View())) << FormatQuantSpec(spec);
    }
  }
}

// A second copy for decoding, of the head or of the embedding that stands for it.
TEST_F(LoaderTest, AQuantisedHeadBesideTheDenseOne) {
  for (const bool tied : {false, true}) {
    TinyModelOptions options;
    options.tied = tied;
    const TinyModel tiny(options);
    const TempDir dir;
    tiny.Write(dir.path());
    for (const QuantSpec& spec : {Spec(QuantFormat::kNf4), Spec(QuantFormat::kInt8, false)}) {
      ASSERT_OK_AND_ASSIGN(const auto without, Model::Load(dir.path(), spec, *backend_));
      EXPECT_EQ(without->decode_head().dense.data, without->head().dense.data);
      ASSERT_OK_AND_ASSIGN(const auto model,
                           Model::Load(dir.path(), spec, *backend_, {.quant_head = true}));
      EXPECT_EQ(model->digest(), without->digest());
      EXPECT_EQ(model->weight_bytes(),
                without->weight_bytes() + QuantHeadBytes(model->config(), spec));
      const WeightView &head = model->head(), &quantised = model->decode_head();
      EXPECT_FALSE(head.dense.empty());
      const std::vector<float> values =
          tiny.Values(tied ? "model.embed_tokens.weight" : "lm_head.weight");
      const QuantizedMatrix expected =
          Quantize(spec, head.out_features, head.in_features, values.data());
      EXPECT_EQ(quantised.spec, spec);
      EXPECT_EQ(Dequantized(quantised), Dequantized(expected.View()));
    }
    EXPECT_THAT(Model::Load(dir.path(), Spec(QuantFormat::kNone), *backend_, {.quant_head = true}),
                StatusIs(kInvalid, "quant_head is true"));
  }
}

// More elements than one piece: pieces are quantised apart and must give the whole.
TEST_F(LoaderTest, PiecesOfALargeMatrixMakeTheWhole) {
  TinyModelOptions options;
  options.layers = 1;
  options.hidden = 1000;
  options.intermediate = 2111;  // 2.1 million elements: three pieces, the last one short
  options.heads = options.kv_heads = 1;
  options.vocab = 4;
  const TinyModel tiny(options);
  ASSERT_OK_AND_ASSIGN(const auto model, Load(tiny));
  for (const Projection projection : {Projection::kUp, Projection::kDown}) {
    const WeightView& weight = model->layer(0)[projection].weight;
    const std::vector<float> values = tiny.Values(ModulePath({0, projection}) + ".weight");
    const QuantizedMatrix expected =
        Quantize(QuantSpec(), weight.out_features, weight.in_features, values.data());
    EXPECT_EQ(weight.nested_offset, expected.nested_offset);
    EXPECT_EQ(Dequantized(weight), Dequantized(expected.View()));
  }
}

TEST_F(LoaderTest, GoldenCodesAreThoseOfBitsAndBytes) {
  for (const char* name : kGoldenModels) {
    const Golden golden(name);
    ASSERT_OK_AND_ASSIGN(const auto model, Model::Load(golden.model_dir(), QuantSpec(), *backend_));
    for (const ModuleId id : {ModuleId{0, Projection::kQ}, ModuleId{1, Projection::kDown}}) {
      const WeightView& weight = model->layer(id.layer)[id.projection].weight;
      const std::string prefix = "nf4." + ModulePath(id) + ".";
      const auto bytes = [&](const char* part) { return golden.Values<uint8_t>(prefix + part); };
      const auto held = [](const ConstTensorView& view) {
        return std::vector<uint8_t>(view.as<uint8_t>(), view.as<uint8_t>() + view.num_elements());
      };
      EXPECT_EQ(held(weight.codes), bytes("packed")) << prefix;
      EXPECT_EQ(held(weight.scales_u8), bytes("absmax_u8")) << prefix;
      EXPECT_EQ(Dequantized(weight), Floats(golden.View(prefix + "dequant_bf16"))) << prefix;
    }
  }
}

TEST_F(LoaderTest, TiedHeadIsTheEmbedding) {
  TinyModelOptions options;
  options.tied = true;
  TinyModel tiny(options);
  ASSERT_OK_AND_ASSIGN(const auto model, Load(tiny));
  EXPECT_EQ(model->head().dense.data, model->embedding().data);
  // transformers drops a head beside tied embeddings, and inv_freq buffers of old versions.
  tiny.Set("lm_head.weight", {options.vocab, options.hidden},
           RandomValues(options.vocab * options.hidden, 1, 77), DType::kBF16);
  tiny.Set("model.layers.0.self_attn.rotary_emb.inv_freq", {4}, {1, 2, 3, 4}, DType::kF32);
  ASSERT_OK_AND_ASSIGN(const auto with_head, Load(tiny));
  EXPECT_EQ(with_head->head().dense.data, with_head->embedding().data);
  EXPECT_EQ(Floats(with_head->head().dense), tiny.Values("model.embed_tokens.weight"));
}

TEST_F(LoaderTest, DigestIsTheContents) {
  const TinyModel tiny;
  ASSERT_OK_AND_ASSIGN(const auto model, Load(tiny));
  EXPECT_EQ(model->digest().size(), 64u);
  ASSERT_OK_AND_ASSIGN(const auto sharded, Load(tiny, {}, /*shards=*/3));
  EXPECT_EQ(sharded->digest(), model->digest());
  ASSERT_OK_AND_ASSIGN(const auto int8, Load(tiny, Spec(QuantFormat::kInt8)));
  EXPECT_NE(int8->digest(), model->digest());

  TinyModel changed = tiny;
  changed.tensors["model.norm.weight"].bytes[0] ^= 1;
  ASSERT_OK_AND_ASSIGN(const auto other_tensor, Load(changed));
  EXPECT_NE(other_tensor->digest(), model->digest());
  changed = tiny;
  changed.config["rope_theta"] = "20000.0";
  ASSERT_OK_AND_ASSIGN(const auto other_config, Load(changed));
  EXPECT_NE(other_config->digest(), model->digest());
  changed = tiny;
  changed.config["eos_token_id"] = "3";  // not of the maths
  ASSERT_OK_AND_ASSIGN(const auto other_eos, Load(changed));
  EXPECT_EQ(other_eos->digest(), model->digest());
}

TEST_F(LoaderTest, RefusesTensorsByName) {
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  const TinyModel tiny;
  const auto expect = [&](const TinyModel& broken, absl::StatusCode code,
                          const std::string& message) {
    EXPECT_THAT(Load(broken), StatusIs(code, message));
    EXPECT_EQ(UsedBytes(), 0) << message;
  };
  TinyModel broken = tiny;
  broken.tensors.erase(q);
  expect(broken, absl::StatusCode::kNotFound, "tensor " + q + " is missing");
  broken = tiny;
  broken.tensors.erase("lm_head.weight");
  expect(broken, absl::StatusCode::kNotFound, "tensor lm_head.weight is missing");
  broken = tiny;
  broken.tensors[q].shape = {16, 64};
  expect(broken, kInvalid, "tensor " + q + " has shape [16, 64]; config.json asks for [32, 32]");
  broken = tiny;
  broken.tensors[q].dtype = DType::kI8;
  broken.tensors[q].shape = {32, 64};
  expect(broken, kInvalid, "tensor " + q + " has shape [32, 64]");
  broken.tensors["model.norm.weight"].dtype = DType::kU8;
  broken.tensors["model.norm.weight"].bytes.resize(32);
  broken.tensors[q] = tiny.tensors.at(q);
  expect(broken, kInvalid, "tensor model.norm.weight is U8; supported: BF16, F16, F32");
  broken = tiny;
  broken.Set("model.layers.2.mlp.up_proj.weight", {2}, {1, 2}, DType::kF32);
  expect(broken, kInvalid, "tensor model.layers.2.mlp.up_proj.weight [2]: LlamaForCausalLM");
  broken = tiny;
  broken.Set("model.layers.0.self_attn.q_proj.bias", {32}, RandomValues(32, 1, 3), DType::kF32);
  expect(broken, kInvalid, "tensor model.layers.0.self_attn.q_proj.bias");
}

TEST_F(LoaderTest, RefusesValuesThatAreNotFinite) {
  for (const QuantFormat format : {QuantFormat::kNf4, QuantFormat::kNone}) {
    for (const char* name : {"model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight",
                             "model.norm.weight"}) {
      TinyModelOptions options;
      options.dtype = DType::kF32;
      TinyModel tiny(options);
      std::vector<float> values = tiny.Values(name);
      values[9] = NAN;
      tiny.Set(name, tiny.tensors[name].shape, values, DType::kF32);
      EXPECT_THAT(Load(tiny, Spec(format)),
                  StatusIs(kInvalid, std::string("tensor ") + name + ": element 9 is nan"));
      EXPECT_EQ(UsedBytes(), 0);
    }
  }
  TinyModelOptions options;
  options.dtype = DType::kF32;
  TinyModel tiny(options);
  std::vector<float> values = tiny.Values("lm_head.weight");
  values[2] = 3.4e38f;
  tiny.Set("lm_head.weight", tiny.tensors["lm_head.weight"].shape, values, DType::kF32);
  EXPECT_THAT(Load(tiny),
              StatusIs(kInvalid, "tensor lm_head.weight: element 2, 3.4e+38, is beyond"));
}

TEST_F(LoaderTest, NamesMissingAndTruncatedFiles) {
  const TempDir dir;
  EXPECT_THAT(Model::Load(dir.path(), {}, *backend_),
              StatusIs(absl::StatusCode::kNotFound, dir.File("config.json")));
  const TinyModel tiny;
  dir.Write("config.json", tiny.ConfigJson());
  EXPECT_THAT(Model::Load(dir.path(), {}, *backend_),
              StatusIs(absl::StatusCode::kNotFound, "model.safetensors"));
  tiny.Write(dir.path());
  std::filesystem::resize_file(dir.File("model.safetensors"), 20000);
  EXPECT_THAT(Model::Load(dir.path(), {}, *backend_), StatusIs(kInvalid, "model.safetensors"));
  EXPECT_EQ(UsedBytes(), 0);
}

TEST_F(LoaderTest, LimitOfWeightsIsKept) {
  const TinyModel tiny;
  backend_->allocator().SetLimit(MemoryTag::kWeights, 20000);
  EXPECT_THAT(Load(tiny), StatusIs(absl::StatusCode::kResourceExhausted, "weights"));
  EXPECT_EQ(UsedBytes(), 0);
  backend_->allocator().SetLimit(MemoryTag::kWeights, 0);
  {
    ASSERT_OK_AND_ASSIGN(const auto model, Load(tiny));
    EXPECT_EQ(UsedBytes(), model->weight_bytes());
  }
  EXPECT_EQ(UsedBytes(), 0);
}

TEST_F(LoaderTest, RefusesABadQuantSpec) {
  QuantSpec spec;
  spec.block = 48;
  EXPECT_THAT(Load(TinyModel(), spec), StatusIs(kInvalid, "48"));
}

}  // namespace
}  // namespace lorad
