#include "engine/engine_memory.h"

#include "gtest/gtest.h"

namespace lorad {
namespace {

TEST(ChunkTokensTest, ATargetShortensTheChunksOfAGpu) {
  const DeviceInfo cpu = {.name = "cpu", .kind = "cpu"}, gpu = {.name = "a GPU", .kind = "cuda"};
  EngineConfig config;
  EXPECT_EQ(ChunkTokens(config, cpu), 256);
  EXPECT_EQ(ChunkTokens(config, gpu), 2048);
  const struct {
    double target_ms;
    int64_t tokens;
  } cases[] = {{1, 256},     {25.5, 256}, {25.6, 512},   {30, 512},  {50, 512},
               {51.2, 1024}, {102, 1024}, {102.4, 2048}, {500, 2048}};
  for (const auto& [target_ms, tokens] : cases) {
    config.itl_target_ms = target_ms;
    EXPECT_EQ(ChunkTokens(config, gpu), tokens) << target_ms;
    EXPECT_EQ(ChunkTokens(config, cpu), 256);
  }
  config.max_batch_tokens = 100;
  EXPECT_EQ(ChunkTokens(config, gpu), 100);
  EXPECT_EQ(ChunkTokens(config, cpu), 100);
}

// 256 tokens as a matrix take about 13 ms on an H100, which a target must hold twice.
TEST(PromptKindTest, AShortTargetOfAGpuHasPromptsRunRowByRow) {
  const DeviceInfo cpu = {.name = "cpu", .kind = "cpu"}, gpu = {.name = "a GPU", .kind = "cuda"};
  EngineConfig config;
  EXPECT_EQ(PromptKind(config, gpu), PassKind::kMatrix);
  for (const double target_ms : {1.0, 10.0, 25.5}) {
    config.itl_target_ms = target_ms;
    EXPECT_EQ(PromptKind(config, gpu), PassKind::kRowInvariant) << target_ms;
    EXPECT_EQ(PromptKind(config, cpu), PassKind::kMatrix) << target_ms;
  }
  config.itl_target_ms = 25.6;
  EXPECT_EQ(PromptKind(config, gpu), PassKind::kMatrix);
}

}  // namespace
}  // namespace lorad
