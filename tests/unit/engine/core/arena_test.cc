#include "engine/core/arena.h"

#include <vector>

#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

alignas(Arena::kAlignment) char block[1024];

TEST(ArenaTest, AlignsAndReleasesLastInFirstOut) {
  Arena arena("training", block, sizeof(block));
  ASSERT_OK_AND_ASSIGN(TensorView first, arena.Allocate(DType::kF32, {3}));
  const int64_t mark = arena.Mark();
  ASSERT_OK_AND_ASSIGN(TensorView second, arena.Allocate(DType::kF32, {1}));
  EXPECT_EQ(static_cast<char*>(second.data) - static_cast<char*>(first.data), Arena::kAlignment);
  arena.Release(mark);
  ASSERT_OK_AND_ASSIGN(TensorView again, arena.Allocate(DType::kBF16, {2}));
  EXPECT_EQ(again.data, second.data);
  EXPECT_EQ(arena.peak_bytes(), 512);
}

TEST(ArenaTest, RefusalNamesNeededAndFreeBytes) {
  Arena arena("training", block, sizeof(block));
  EXPECT_THAT(arena.Allocate(DType::kF32, {300}),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "training memory: [300] F32 needs 1280 bytes, 1024 of 1024 are free"));
}

TEST(ArenaTest, MeasuringGivesThePeakWithoutMemory) {
  Arena arena = Arena::Measuring("training");
  const int64_t mark = arena.Mark();
  ASSERT_OK_AND_ASSIGN(TensorView view, arena.Allocate(DType::kF32, {1 << 20, 1 << 10}));
  EXPECT_EQ(view.data, nullptr);
  arena.Release(mark);
  EXPECT_EQ(arena.peak_bytes(), int64_t{4} << 30);
  EXPECT_EQ(arena.used_bytes(), 0);
}

}  // namespace
}  // namespace lorad
