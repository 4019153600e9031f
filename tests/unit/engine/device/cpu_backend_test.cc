#include <cstdint>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "engine/device/backend.h"
#include "engine/ops/ops.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

TEST(CpuBackendTest, SaysWhatItIs) {
  std::unique_ptr<Backend> backend = CreateCpuBackend();
  EXPECT_EQ(backend->info().kind, "cpu");
  EXPECT_GT(backend->info().memory_bytes, int64_t{64} << 20);
  EXPECT_EQ(backend->activation_dtype(), DType::kF32);
  EXPECT_EQ(backend->adapter_dtype(), DType::kF32);
  backend = CreateCpuBackend({.double_precision = true});
  EXPECT_EQ(backend->activation_dtype(), DType::kF64);
  EXPECT_EQ(backend->adapter_dtype(), DType::kF64);
}

TEST(CpuAllocatorTest, BlocksAreAlignedAndAccountedByTag) {
  std::unique_ptr<Backend> backend = CreateCpuBackend();
  Allocator& allocator = backend->allocator();
  {
    ASSERT_OK_AND_ASSIGN(DeviceBuffer a, allocator.Allocate(1000, MemoryTag::kWeights));
    ASSERT_OK_AND_ASSIGN(DeviceBuffer b, allocator.Allocate(1, MemoryTag::kWeights));
    ASSERT_OK_AND_ASSIGN(DeviceBuffer empty, allocator.Allocate(0, MemoryTag::kAdapters));
    for (const DeviceBuffer* buffer : {&a, &b, &empty}) {
      EXPECT_NE(buffer->data(), nullptr);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 256, 0u);
    }
    EXPECT_EQ(a.size_bytes(), 1000);
    EXPECT_EQ(allocator.Usage(MemoryTag::kWeights).used_bytes, 1001);
    EXPECT_EQ(allocator.Usage(MemoryTag::kAdapters).used_bytes, 0);
    const DeviceBuffer moved = std::move(a);
    EXPECT_EQ(allocator.Usage(MemoryTag::kWeights).used_bytes, 1001);
  }
  EXPECT_EQ(allocator.Usage(MemoryTag::kWeights).used_bytes, 0);
  EXPECT_EQ(allocator.Usage(MemoryTag::kWeights).peak_bytes, 1001);
}

TEST(CpuAllocatorTest, LimitIsHeldAndNamedAndLeavesOtherTagsAlone) {
  std::unique_ptr<Backend> backend = CreateCpuBackend();
  Allocator& allocator = backend->allocator();
  allocator.SetLimit(MemoryTag::kKvCache, 1000);
  ASSERT_OK_AND_ASSIGN(DeviceBuffer first, allocator.Allocate(600, MemoryTag::kKvCache));
  const absl::Status full = allocator.Allocate(401, MemoryTag::kKvCache).status();
  EXPECT_THAT(full, StatusIs(absl::StatusCode::kResourceExhausted, "kv_cache"));
  EXPECT_THAT(full, StatusIs(absl::StatusCode::kResourceExhausted, "401 bytes needed"));
  EXPECT_THAT(full, StatusIs(absl::StatusCode::kResourceExhausted, "400 of 1000 free"));
  EXPECT_EQ(allocator.Usage(MemoryTag::kKvCache).used_bytes, 600);
  EXPECT_OK(allocator.Allocate(400, MemoryTag::kKvCache));
  EXPECT_OK(allocator.Allocate(401, MemoryTag::kTraining));
  EXPECT_EQ(allocator.Usage(MemoryTag::kKvCache).limit_bytes, 1000);
  allocator.SetLimit(MemoryTag::kKvCache, 0);
  EXPECT_OK(allocator.Allocate(401, MemoryTag::kKvCache));
}

TEST(CpuAllocatorTest, BytesMoveBetweenTags) {
  std::unique_ptr<Backend> backend = CreateCpuBackend();
  Allocator& allocator = backend->allocator();
  ASSERT_OK_AND_ASSIGN(const DeviceBuffer block, allocator.Allocate(1000, MemoryTag::kKvCache));
  allocator.Retag(300, MemoryTag::kKvCache, MemoryTag::kAdapters);
  EXPECT_EQ(allocator.Usage(MemoryTag::kKvCache).used_bytes, 700);
  EXPECT_EQ(allocator.Usage(MemoryTag::kAdapters).used_bytes, 300);
  allocator.Retag(300, MemoryTag::kAdapters, MemoryTag::kKvCache);
  EXPECT_EQ(allocator.Usage(MemoryTag::kKvCache).used_bytes, 1000);
  EXPECT_EQ(allocator.Usage(MemoryTag::kAdapters).used_bytes, 0);
  EXPECT_EQ(allocator.Usage(MemoryTag::kAdapters).peak_bytes, 300);
}

TEST(CpuAllocatorTest, MoreThanTheHostHasIsAnErrorAndNotAccounted) {
  std::unique_ptr<Backend> backend = CreateCpuBackend();
  const absl::Status status =
      backend->allocator().Allocate(int64_t{1} << 62, MemoryTag::kWeights).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, "weights"));
  EXPECT_EQ(backend->allocator().Usage(MemoryTag::kWeights).used_bytes, 0);
}

TEST(CpuAllocatorTest, IsThreadSafe) {
  std::unique_ptr<Backend> backend = CreateCpuBackend();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 500; ++j) {
        EXPECT_OK(backend->allocator().Allocate(64, MemoryTag::kWorkspace));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(backend->allocator().Usage(MemoryTag::kWorkspace).used_bytes, 0);
}

TEST(CpuBackendTest, CopiesZeroesAndSynchronises) {
  std::unique_ptr<Backend> backend = CreateCpuBackend();
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Stream> stream, backend->CreateStream());
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Event> event, backend->CreateEvent());
  const std::vector<int> from = {1, 2, 3};
  std::vector<int> to(3, 9);
  ASSERT_OK(backend->Copy(to.data(), from.data(), 2 * sizeof(int), *stream));
  EXPECT_EQ(to, (std::vector<int>{1, 2, 9}));
  ASSERT_OK(backend->Zero(to.data() + 1, 2 * sizeof(int), *stream));
  EXPECT_EQ(to, (std::vector<int>{1, 0, 0}));
  ASSERT_OK(event->Record(*stream));
  ASSERT_OK(event->Wait(*stream));
  ASSERT_OK_AND_ASSIGN(const bool done, event->Done());
  EXPECT_TRUE(done);
  EXPECT_OK(stream->Synchronize());
}

TEST(CpuBackendTest, EventsTellTheTimeBetweenThem) {
  std::unique_ptr<Backend> backend = CreateCpuBackend();
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Stream> stream,
                       backend->CreateStream(StreamPriority::kHigh));
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Event> begin, backend->CreateEvent());
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Event> end, backend->CreateEvent());
  ASSERT_OK(end->Synchronize());  // nothing was recorded
  const absl::Time before = absl::Now();
  ASSERT_OK(begin->Record(*stream));
  const absl::Time between = absl::Now();
  absl::SleepFor(absl::Milliseconds(2));
  ASSERT_OK(end->Record(*stream));
  ASSERT_OK(end->Synchronize());
  ASSERT_OK_AND_ASSIGN(const absl::Duration took, end->Since(*begin));
  EXPECT_GE(took, absl::Milliseconds(2));
  EXPECT_LE(took, absl::Now() - before);
  EXPECT_LE(between - before, took);
}

}  // namespace
}  // namespace lorad
