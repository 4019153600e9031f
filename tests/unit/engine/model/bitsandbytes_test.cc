// Checkpoints that bitsandbytes has quantised: written here in its format, which the golden data
// pins (tests/golden: `nf4.<module>.*` are bitsandbytes' own bytes).
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/float16.h"
#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "engine/ops/ops.h"
#include "engine/quant/quant.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace lorad {
namespace {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

template <typename T>
void SetBytes(TinyModel& tiny, const std::string& name, DType dtype, std::vector<int64_t> shape,
              const std::vector<T>& values) {
  TinyModel::Tensor& tensor = tiny.tensors[name];
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

std::string StateName(const std::string& weight, const QuantSpec& spec) {
  return weight + ".quant_state.bitsandbytes__" +
         (spec.format == QuantFormat::kNf4 ? "nf4" : "fp4");
}

void SetState(TinyModel& tiny, const std::string& name, const std::string& json) {
  SetBytes(tiny, name, DType::kU8, {static_cast<int64_t>(json.size())},
           std::vector<char>(json.begin(), json.end()));
}

std::string StateJson(const QuantizedMatrix& matrix) {
  std::string json =
      absl::StrCat(R"({"quant_type": ")", matrix.spec.format == QuantFormat::kNf4 ? "nf4" : "fp4",
                   R"(", "blocksize": )", matrix.spec.block, R"(, "dtype": "bfloat16", "shape": [)",
                   matrix.out_features, ", ", matrix.in_features, "]");
  if (matrix.spec.double_quant)
    absl::StrAppend(&json, R"(, "nested_blocksize": 256, "nested_dtype": "float32", )",
                    R"("nested_offset": )", absl::SixDigits(matrix.nested_offset));
  return json + "}";
}

// Replaces a 16-bit weight by the tensors that bitsandbytes' Linear4bit saves.
void Pack(TinyModel& tiny, const std::string& weight, QuantizedMatrix& matrix,
          DType storage = DType::kU8) {
  const int64_t bytes = static_cast<int64_t>(matrix.codes.size());
  SetBytes(tiny, weight, storage, {bytes / SizeOf(storage), 1}, matrix.codes);
  SetBytes(tiny, weight + ".quant_map", DType::kF32, {16}, matrix.code_book);
  const int64_t blocks = matrix.View().num_blocks();
  if (matrix.spec.double_quant) {
    // SixDigits in the JSON above: the offset that a reader gets.
    matrix.nested_offset =
        std::stof(std::string(absl::StrCat(absl::SixDigits(matrix.nested_offset))));
    SetBytes(tiny, weight + ".absmax", DType::kU8, {blocks}, matrix.scales_u8);
    SetBytes(tiny, weight + ".nested_absmax", DType::kF32,
             {static_cast<int64_t>(matrix.nested_scales.size())}, matrix.nested_scales);
    SetBytes(tiny, weight + ".nested_quant_map", DType::kF32, {256}, matrix.nested_code);
  } else {
    SetBytes(tiny, weight + ".absmax", DType::kF32, {blocks}, matrix.scales);
  }
  SetState(tiny, StateName(weight, matrix.spec), StateJson(matrix));
}

QuantizedMatrix QuantizeTensor(const TinyModel& tiny, const std::string& weight,
                               const QuantSpec& spec) {
  const TinyModel::Tensor& tensor = tiny.tensors.at(weight);
  return Quantize(spec, tensor.shape[0], tensor.shape[1], tiny.Values(weight).data());
}

// Every linear layer packed, but for those in `skip`.
std::map<std::string, QuantizedMatrix> PackAll(TinyModel& tiny, const QuantSpec& spec,
                                               const std::string& skip = "",
                                               DType storage = DType::kU8) {
  std::map<std::string, QuantizedMatrix> matrices;
  for (int32_t index = 0; index < 2 * kNumProjections; ++index) {
    const std::string weight = ModulePath(ModuleId::FromIndex(index)) + ".weight";
    if (weight == skip) continue;
    QuantizedMatrix& matrix = matrices[weight] = QuantizeTensor(tiny, weight, spec);
    Pack(tiny, weight, matrix, storage);
  }
  tiny.config["quantization_config"] =
      R"({"quant_method":"bitsandbytes","load_in_4bit":true,"load_in_8bit":false})";
  return matrices;
}

class BitsAndBytesTest : public testing::Test {
 protected:
  absl::StatusOr<std::shared_ptr<const Model>> Load(const TinyModel& tiny) {
    const TempDir dir;
    tiny.Write(dir.path());
    return Model::Load(dir.path(), QuantSpec(), *backend_);
  }
  std::vector<float> Dequantized(const WeightView& weight) {
    std::vector<float> values(weight.num_elements());
    const std::unique_ptr<Stream> stream = *backend_->CreateStream();
    EXPECT_OK(backend_->ops().Dequantize(
        {weight, {values.data(), DType::kF32, {weight.out_features, weight.in_features}}},
        *stream));
    return values;
  }
  void ExpectRefused(const TinyModel& tiny, absl::StatusCode code, const std::string& message) {
    EXPECT_THAT(Load(tiny), StatusIs(code, message));
    EXPECT_EQ(backend_->allocator().Usage(MemoryTag::kWeights).peak_bytes, 0) << message;
  }

  const std::unique_ptr<Backend> backend_ = CreateCpuBackend();
  const std::string q_ = "model.layers.0.self_attn.q_proj.weight";
};

struct FormatCase {
  QuantFormat format;
  bool double_quant;
  int32_t block;
  DType storage;
};

TEST_F(BitsAndBytesTest, LoadsAsItIs) {
  const FormatCase cases[] = {{QuantFormat::kNf4, true, 64, DType::kU8},
                              {QuantFormat::kNf4, false, 64, DType::kU8},
                              {QuantFormat::kNf4, true, 128, DType::kBF16},
                              {QuantFormat::kFp4, true, 64, DType::kF32},
                              {QuantFormat::kFp4, false, 32, DType::kF16}};
  for (const FormatCase& c : cases) {
    QuantSpec spec;
    spec.format = c.format;
    spec.block = c.block;
    spec.double_quant = c.double_quant;
    TinyModel tiny;
    const std::map<std::string, QuantizedMatrix> matrices = PackAll(tiny, spec, "", c.storage);
    ASSERT_OK_AND_ASSIGN(const auto model, Load(tiny));
    EXPECT_EQ(model->quant(), spec);
    for (int32_t index = 0; index < 2 * kNumProjections; ++index) {
      const ModuleId id = ModuleId::FromIndex(index);
      const WeightView& weight = model->layer(id.layer)[id.projection].weight;
      EXPECT_EQ(weight.spec, spec);
      EXPECT_EQ(Dequantized(weight), Dequantized(matrices.at(ModulePath(id) + ".weight").View()))
          << ModulePath(id) << " " << FormatQuantSpec(spec);
    }
  }
}

// Written from bitsandbytes' own bytes: q_proj of the golden model.
TEST_F(BitsAndBytesTest, GoldenBytesDecodeToGoldenValues) {
  const Golden golden("llama-gqa");
  const std::string prefix = "nf4.model.layers.0.self_attn.q_proj.";
  QuantizedMatrix matrix;
  matrix.spec = QuantSpec();
  matrix.out_features = matrix.in_features = 128;
  matrix.codes = golden.Values<uint8_t>(prefix + "packed");
  matrix.code_book = golden.Floats(prefix + "code");
  matrix.scales_u8 = golden.Values<uint8_t>(prefix + "absmax_u8");
  matrix.nested_scales = golden.Floats(prefix + "nested_absmax");
  matrix.nested_code = golden.Floats(prefix + "nested_code");
  matrix.nested_offset = golden.Floats(prefix + "offset")[0];
  TinyModelOptions options;
  options.hidden = 128;
  options.head_dim = 32;
  options.layers = 1;
  TinyModel tiny(options);
  Pack(tiny, q_, matrix);
  // Python's json.dumps writes a float with all its digits.
  char offset[64];
  std::snprintf(offset, sizeof(offset), "%.17g", golden.Floats(prefix + "offset")[0]);
  SetState(tiny, StateName(q_, matrix.spec),
           absl::StrCat(R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", )",
                        R"("shape": [128, 128], "nested_blocksize": 256, )",
                        R"("nested_dtype": "float32", "nested_offset": )", offset, "}"));
  ASSERT_OK_AND_ASSIGN(const auto model, Load(tiny));
  const ConstTensorView expected = golden.View(prefix + "dequant_bf16");
  const std::vector<float> actual = Dequantized(model->layer(0)[Projection::kQ].weight);
  for (int64_t i = 0; i < expected.num_elements(); ++i)
    ASSERT_EQ(actual[i], ToFloat(expected.as<BFloat16>()[i])) << i;
}

TEST_F(BitsAndBytesTest, SkippedModulesKeep16Bits) {
  TinyModel tiny;
  PackAll(tiny, QuantSpec(), q_);
  ASSERT_OK_AND_ASSIGN(const auto model, Load(tiny));
  const WeightView& weight = model->layer(0)[Projection::kQ].weight;
  EXPECT_EQ(weight.spec.format, QuantFormat::kNone);
  EXPECT_EQ(Dequantized(weight), tiny.Values(q_));
  EXPECT_EQ(model->layer(1)[Projection::kQ].weight.spec, QuantSpec());
}

TEST_F(BitsAndBytesTest, RefusesMixedFormats) {
  TinyModel tiny;
  PackAll(tiny, QuantSpec());
  const TinyModel whole = tiny;
  QuantSpec other;
  other.block = 128;
  QuantizedMatrix matrix = QuantizeTensor(TinyModel(), q_, other);
  Pack(tiny, q_, matrix);
  ExpectRefused(tiny, absl::StatusCode::kUnimplemented, "is quantised as nf4");
  tiny = whole;
  tiny.tensors[q_ + ".quant_map"].bytes[3] ^= 1;
  ExpectRefused(tiny, absl::StatusCode::kUnimplemented, "has a quant_map of its own");
}

TEST_F(BitsAndBytesTest, RefusesBrokenParts) {
  TinyModel whole;
  std::map<std::string, QuantizedMatrix> matrices = PackAll(whole, QuantSpec());
  const std::string state = StateName(q_, QuantSpec());
  const auto with_state = [&](const std::string& from, const std::string& to) {
    TinyModel tiny = whole;
    std::string json = StateJson(matrices[q_]);
    const size_t at = json.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    SetState(tiny, state, json.replace(at, from.size(), to));
    return tiny;
  };
  for (const char* part : {".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"}) {
    TinyModel tiny = whole;
    tiny.tensors.erase(q_ + part);
    ExpectRefused(tiny, absl::StatusCode::kNotFound, "tensor " + q_ + part + " is missing");
    tiny = whole;
    SetBytes(tiny, q_ + part, DType::kF32, {3}, std::vector<float>{1, 2, 3});
    ExpectRefused(tiny, kInvalid, "tensor " + q_ + part + " is F32 [3]; expected");
  }
  TinyModel tiny = whole;
  tiny.tensors.erase(state);
  ExpectRefused(tiny, kInvalid, q_);  // packed codes without a state have no shape
  tiny = whole;
  SetBytes(tiny, q_, DType::kU8, {10, 1}, std::vector<uint8_t>(10));
  ExpectRefused(tiny, kInvalid, "tensor " + q_ + " has 10 bytes; 512 expected");
  tiny = whole;
  SetBytes(tiny, q_ + ".nested_absmax", DType::kF32, {1}, std::vector<float>{INFINITY});
  ExpectRefused(tiny, kInvalid, q_ + ".nested_absmax: element 0 is not finite");
  ExpectRefused(with_state("\"nf4\"", "\"int4\""), kInvalid, "\"quant_type\" is \"int4\"");
  ExpectRefused(with_state("\"blocksize\": 64", "\"blocksize\": 48"), kInvalid, "48");
  ExpectRefused(with_state("[32, 32]", "[32, 64]"), kInvalid, "\"shape\" is [32,64]");
  ExpectRefused(with_state("\"nested_blocksize\": 256", "\"nested_blocksize\": 128"),
                absl::StatusCode::kUnimplemented, "nested_blocksize 128");
  ExpectRefused(with_state("{", "{{"), kInvalid, state);
}

}  // namespace
}  // namespace lorad
