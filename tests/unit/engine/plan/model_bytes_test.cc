#include <memory>
#include <string>

#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "engine/plan/memory.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

TEST(ModelWeightBytesTest, IsWhatTheLoaderTakes) {
  const QuantSpec specs[] = {
      {QuantFormat::kNf4, 64, true},   {QuantFormat::kNf4, 64, false},
      {QuantFormat::kFp4, 128, true},  {QuantFormat::kInt4, 32, false},
      {QuantFormat::kInt8, 256, true}, {QuantFormat::kNone, 64, false},
  };
  // Untied, tied, with biases.
  for (const char* name : kGoldenModels) {
    const std::string dir = Golden(name).model_dir();
    for (const QuantSpec& quant : specs) {
      SCOPED_TRACE(std::string(name) + " format " + std::to_string(static_cast<int>(quant.format)));
      const std::unique_ptr<Backend> backend = CreateCpuBackend();
      ASSERT_OK_AND_ASSIGN(const ModelConfig config, LoadModelConfig(dir));
      ASSERT_OK_AND_ASSIGN(const auto model, Model::Load(dir, quant, *backend));
      EXPECT_EQ(ModelWeightBytes(config, quant), model->weight_bytes());
      EXPECT_EQ(backend->allocator().Usage(MemoryTag::kWeights).used_bytes, model->weight_bytes());
    }
  }
}

}  // namespace
}  // namespace lorad
