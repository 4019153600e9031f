#include "engine/infer/staging.h"

#include <cstring>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/failing_backend.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using absl::StatusCode;

class StagingTest : public testing::Test {
 protected:
  StagingTest()
      : backend_(CreateCpuBackend()),
        stream_(*backend_.CreateStream()),
        memory_(*backend_.allocator().Allocate(4096, MemoryTag::kWorkspace)),
        arena_("workspace", memory_.data(), memory_.size_bytes()) {
    std::memset(memory_.data(), 0xff, 4096);
  }
  int64_t PinnedBytes() { return backend_.allocator().Usage(MemoryTag::kPinned).used_bytes; }

  FailingBackend backend_;
  std::unique_ptr<Stream> stream_;
  DeviceBuffer memory_;
  Arena arena_;
};

TEST_F(StagingTest, ABlockHoldsItsMembersSideBySideAndAligned) {
  TensorView a, b, c;
  ASSERT_OK_AND_ASSIGN(
      const TensorView block,
      AllocateBlock({{&a, DType::kI32, {3}}, {&b, DType::kI64, {2, 1}}, {&c, DType::kU8, {17}}},
                    arena_));
  const auto offset = [&](const TensorView& view) {
    return static_cast<char*>(view.data) - static_cast<char*>(block.data);
  };
  EXPECT_EQ(offset(a), 0);
  EXPECT_EQ(offset(b), 16);
  EXPECT_EQ(offset(c), 32);
  EXPECT_EQ(block.size_bytes(), 64);
  EXPECT_EQ(b.shape, (Shape{2, 1}));
  EXPECT_EQ(b.dtype, DType::kI64);
}

TEST_F(StagingTest, AMeasuringArenaGivesTheSameBytesAndNoMemory) {
  Arena measuring = Arena::Measuring("workspace");
  TensorView a, b;
  ASSERT_OK_AND_ASSIGN(const TensorView block,
                       AllocateBlock({{&a, DType::kI32, {3}}, {&b, DType::kI32, {3}}}, measuring));
  EXPECT_EQ(block.size_bytes(), 32);
  EXPECT_TRUE(a.empty() && b.empty());
  TensorView large;
  EXPECT_THAT(AllocateBlock({{&large, DType::kU8, {5000}}}, arena_),
              StatusIs(StatusCode::kResourceExhausted, "workspace memory"));
}

TEST_F(StagingTest, OneCopyBringsAllMembers) {
  ASSERT_OK_AND_ASSIGN(Staging staging, Staging::Create({.inputs = 64, .outputs = 64}, backend_));
  TensorView a, b;
  ASSERT_OK_AND_ASSIGN(const TensorView block,
                       AllocateBlock({{&a, DType::kI32, {3}}, {&b, DType::kI64, {2}}}, arena_));
  const std::vector<int32_t> first = {1, 2, 3};
  const std::vector<int64_t> second = {4, 5};
  staging.Begin();
  staging.Put(block, b, second.data());
  staging.Put(block, a, first.data());
  EXPECT_NE(a.as<int32_t>()[0], 1);
  ASSERT_OK(staging.Upload(block, *stream_));
  EXPECT_EQ(std::vector<int32_t>(a.as<int32_t>(), a.as<int32_t>() + 3), first);
  EXPECT_EQ(std::vector<int64_t>(b.as<int64_t>(), b.as<int64_t>() + 2), second);
}

TEST_F(StagingTest, WhatWasFetchedStaysUntilTheNextPass) {
  ASSERT_OK_AND_ASSIGN(Staging staging, Staging::Create({.inputs = 0, .outputs = 48}, backend_));
  ASSERT_OK_AND_ASSIGN(const TensorView tensor, arena_.Allocate(DType::kI32, {8}));
  for (int pass = 0; pass < 3; ++pass) {
    for (int i = 0; i < 8; ++i) tensor.as<int32_t>()[i] = 10 * pass + i;
    staging.Begin();
    void* const head = staging.PlaceFor(Rows(tensor, 0, 3));
    void* const tail = staging.PlaceFor(Rows(tensor, 3, 8));
    ASSERT_OK(staging.Fetch(Rows(tensor, 0, 3), head, *stream_));
    ASSERT_OK(staging.Fetch(Rows(tensor, 3, 8), tail, *stream_));
    tensor.as<int32_t>()[0] = -1;
    EXPECT_EQ(static_cast<const int32_t*>(head)[0], 10 * pass);
    EXPECT_EQ(static_cast<const int32_t*>(head)[2], 10 * pass + 2);
    EXPECT_EQ(static_cast<const int32_t*>(tail)[0], 10 * pass + 3);
    EXPECT_EQ(static_cast<const int32_t*>(tail)[4], 10 * pass + 7);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tail) % 16, 0);
  }
}

TEST_F(StagingTest, MemoryIsPinnedAndGoesBack) {
  {
    ASSERT_OK_AND_ASSIGN(Staging staging,
                         Staging::Create({.inputs = 100, .outputs = 200}, backend_));
    EXPECT_EQ(PinnedBytes(), 300);
  }
  EXPECT_EQ(PinnedBytes(), 0);
  for (const int n : {1, 2}) {
    backend_.FailAllocation(n, {MemoryTag::kPinned});
    EXPECT_THAT(Staging::Create({.inputs = 100, .outputs = 200}, backend_),
                StatusIs(StatusCode::kResourceExhausted, "pinned memory"));
    EXPECT_EQ(PinnedBytes(), 0);
  }
}

TEST_F(StagingTest, ErrorsOfCopiesAreReported) {
  ASSERT_OK_AND_ASSIGN(Staging staging, Staging::Create({.inputs = 64, .outputs = 64}, backend_));
  ASSERT_OK_AND_ASSIGN(const TensorView tensor, arena_.Allocate(DType::kU8, {16}));
  backend_.BreakWork();
  EXPECT_THAT(staging.Upload(tensor, *stream_), StatusIs(StatusCode::kInternal, ""));
  EXPECT_THAT(staging.Fetch(tensor, staging.PlaceFor(tensor), *stream_),
              StatusIs(StatusCode::kInternal, ""));
}

}  // namespace
}  // namespace lorad
