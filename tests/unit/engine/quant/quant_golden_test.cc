// Encoding and decoding against what bitsandbytes made of the same values, bit for bit.
#include <bit>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "engine/core/float16.h"
#include "engine/device/backend.h"
#include "engine/io/safetensors.h"
#include "engine/io/safetensors_checkpoint.h"
#include "engine/ops/ops.h"
#include "engine/quant/quant.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

std::vector<uint16_t> DecodeBFloat16(const QuantizedMatrix& matrix) {
  std::unique_ptr<Backend> backend = CreateCpuBackend();
  std::unique_ptr<Stream> stream = *backend->CreateStream();
  std::vector<uint16_t> out(matrix.out_features * matrix.in_features);
  const TensorView view = {out.data(), DType::kBF16, {matrix.out_features, matrix.in_features}};
  EXPECT_OK(backend->ops().Dequantize({matrix.View(), view}, *stream));
  return out;
}

template <typename T>
std::vector<T> Values(const ConstTensorView& view) {
  const T* data = static_cast<const T*>(view.data);
  return std::vector<T>(data, data + view.size_bytes() / sizeof(T));
}

// Bits, so that -0 and NaN count.
std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

class ModelQuantGoldenTest : public testing::TestWithParam<const char*> {};

TEST_P(ModelQuantGoldenTest, EveryModuleEqualsBitsandbytes) {
  const Golden golden(GetParam());
  ASSERT_OK_AND_ASSIGN(const SafetensorsCheckpoint model,
                       SafetensorsCheckpoint::Open(golden.model_dir()));
  std::set<std::string> modules;
  for (const SafetensorsEntry& entry : golden.reference().entries()) {
    const std::string suffix = ".packed";
    if (entry.name.rfind("nf4.", 0) == 0 && entry.name.ends_with(suffix)) {
      modules.insert(entry.name.substr(4, entry.name.size() - 4 - suffix.size()));
    }
  }
  ASSERT_FALSE(modules.empty());
  for (const std::string& module : modules) {
    SCOPED_TRACE(module);
    ASSERT_OK_AND_ASSIGN(const ConstTensorView weight, model.View(module + ".weight"));
    ASSERT_EQ(weight.dtype, DType::kBF16);
    std::vector<float> values;
    for (uint16_t bits : Values<uint16_t>(weight)) values.push_back(ToFloat(BFloat16{bits}));
    const QuantizedMatrix matrix =
        Quantize(QuantSpec{}, weight.shape[0], weight.shape[1], values.data());
    const auto reference = [&](const char* part) {
      return golden.View("nf4." + module + "." + part);
    };
    EXPECT_EQ(matrix.codes, Values<uint8_t>(reference("packed")));
    EXPECT_EQ(matrix.scales_u8, Values<uint8_t>(reference("absmax_u8")));
    EXPECT_EQ(Bits(matrix.nested_scales), Values<uint32_t>(reference("nested_absmax")));
    EXPECT_EQ(Bits(matrix.nested_code), Values<uint32_t>(reference("nested_code")));
    EXPECT_EQ(Bits({matrix.nested_offset}), Values<uint32_t>(reference("offset")));
    EXPECT_EQ(Bits(matrix.code_book), Values<uint32_t>(reference("code")));
    EXPECT_EQ(DecodeBFloat16(matrix), Values<uint16_t>(reference("dequant_bf16")));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ModelQuantGoldenTest, testing::ValuesIn(kGoldenModels));

struct Case {
  const char* format;
  int block;
  bool double_quant;
  const char* data;
};

class BlockQuantGoldenTest : public testing::TestWithParam<Case> {};

TEST_P(BlockQuantGoldenTest, AwkwardBlocksEqualBitsandbytes) {
  const Case& c = GetParam();
  ASSERT_OK_AND_ASSIGN(
      const SafetensorsFile file,
      SafetensorsFile::Open(LORAD_SOURCE_DIR "/tests/golden/quant/reference.safetensors"));
  const std::string stem = std::string(c.format) + "." + std::to_string(c.block) + ".";
  const std::string key = stem + (c.double_quant ? "double." : "single.") + c.data;
  const auto reference = [&](const std::string& name) {
    absl::StatusOr<ConstTensorView> view = file.View(name);
    EXPECT_OK(view);
    return *view;
  };
  ASSERT_OK_AND_ASSIGN(QuantSpec spec, ParseQuantSpec(c.format));
  spec.block = c.block;
  spec.double_quant = c.double_quant;
  const ConstTensorView input = reference(stem + c.data + ".input");
  const QuantizedMatrix matrix = Quantize(spec, input.shape[0], input.shape[1], input.as<float>());
  EXPECT_EQ(matrix.codes, Values<uint8_t>(reference(key + ".packed")));
  if (c.double_quant) {
    EXPECT_EQ(matrix.scales_u8, Values<uint8_t>(reference(key + ".absmax_u8")));
    EXPECT_EQ(Bits(matrix.nested_scales), Values<uint32_t>(reference(key + ".nested_absmax")));
    EXPECT_EQ(Bits({matrix.nested_offset}), Values<uint32_t>(reference(key + ".offset")));
  } else {
    EXPECT_EQ(Bits(matrix.scales), Values<uint32_t>(reference(key + ".absmax")));
  }
  EXPECT_EQ(DecodeBFloat16(matrix), Values<uint16_t>(reference(key + ".dequant_bf16")));
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const char* format : {"nf4", "fp4"})
    for (int block : {32, 64, 1024})
      for (bool double_quant : {false, true})
        for (const char* data : {"normal", "zeros", "all_zero", "ties", "equal_scales"})
          cases.push_back({format, block, double_quant, data});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Cases, BlockQuantGoldenTest, testing::ValuesIn(Cases()),
                         [](const testing::TestParamInfo<Case>& info) {
                           return std::string(info.param.format) + "_" +
                                  std::to_string(info.param.block) +
                                  (info.param.double_quant ? "_double_" : "_single_") +
                                  info.param.data;
                         });

}  // namespace
}  // namespace lorad
