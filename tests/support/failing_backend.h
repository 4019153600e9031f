// A device that gives out where a test wants it to.
#ifndef LORAD_TESTS_SUPPORT_FAILING_BACKEND_H_
#define LORAD_TESTS_SUPPORT_FAILING_BACKEND_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/check.h"
#include "engine/device/backend.h"
#include "tests/support/failing_ops.h"

namespace lorad {

// Another backend's memory, which refuses one allocation by a limit that is a byte too low, so that
// the refusal is the backend's own.
class FailingAllocator final : public Allocator {
 public:
  struct Refusal {
    MemoryTag tag;
    int64_t bytes;
  };

  explicit FailingAllocator(Allocator& base) : base_(base) {}

  // Refuses the n-th allocation from now on, counted from 1 among those of `tags`, or of all if
  // `tags` is empty. Allocations of nothing do not count. 0: refuses none.
  void FailAt(int n, std::vector<MemoryTag> tags) {
    left_ = n;
    tags_ = std::move(tags);
    refusal_.reset();
  }
  const std::optional<Refusal>& refusal() const { return refusal_; }

  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes, MemoryTag tag) override {
    if (left_ == 0 || bytes == 0 || !Counts(tag) || --left_ > 0) return base_.Allocate(bytes, tag);
    refusal_ = Refusal{tag, bytes};
    const MemoryUsage usage = base_.Usage(tag);
    const int64_t too_low = usage.used_bytes + bytes - 1;
    LORAD_CHECK(too_low > 0);  // 0 would mean no limit
    base_.SetLimit(tag, too_low);
    absl::StatusOr<DeviceBuffer> refused = base_.Allocate(bytes, tag);
    base_.SetLimit(tag, usage.limit_bytes);
    return refused;
  }
  MemoryUsage Usage(MemoryTag tag) const override { return base_.Usage(tag); }
  void SetLimit(MemoryTag tag, int64_t limit_bytes) override { base_.SetLimit(tag, limit_bytes); }
  void Retag(int64_t bytes, MemoryTag from, MemoryTag to) override { base_.Retag(bytes, from, to); }

 private:
  bool Counts(MemoryTag tag) const {
    return tags_.empty() || std::find(tags_.begin(), tags_.end(), tag) != tags_.end();
  }

  Allocator& base_;
  int left_ = 0;
  std::vector<MemoryTag> tags_;
  std::optional<Refusal> refusal_;
};

// Thread-compatible, the allocator's Usage() and SetLimit() apart: they are the base's.
class FailingBackend final : public Backend {
 public:
  explicit FailingBackend(std::unique_ptr<Backend> base)
      : base_(std::move(base)), allocator_(base_->allocator()), ops_(base_->ops(), gate_) {}

  // See FailingAllocator::FailAt.
  void FailAllocation(int n, std::vector<MemoryTag> tags = {}) {
    allocator_.FailAt(n, std::move(tags));
  }
  // What FailAllocation made the allocator refuse, if it came to that.
  const std::optional<FailingAllocator::Refusal>& refusal() const { return allocator_.refusal(); }

  // See WorkGate: the n-th copy, Zero or op from now on fails; or all of them do.
  void FailWork(int64_t n) { gate_.FailAt(n); }
  void BreakWork() { gate_.Break(); }
  bool work_failed() const { return gate_.failed(); }

  const DeviceInfo& info() const override { return base_->info(); }
  DType activation_dtype() const override { return base_->activation_dtype(); }
  DType adapter_dtype() const override { return base_->adapter_dtype(); }
  Allocator& allocator() override { return allocator_; }
  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override { return base_->CreateEvent(); }
  absl::Status Copy(void* to, const void* from, int64_t bytes, Stream& stream) override {
    return gate_.Do([&] { return base_->Copy(to, from, bytes, stream); });
  }
  absl::Status Zero(void* data, int64_t bytes, Stream& stream) override {
    return gate_.Do([&] { return base_->Zero(data, bytes, stream); });
  }
  Ops& ops() override { return ops_; }

 private:
  absl::StatusOr<std::unique_ptr<Stream>> MakeStream(StreamPriority priority) override {
    return base_->CreateStream(priority);
  }

  const std::unique_ptr<Backend> base_;
  FailingAllocator allocator_;
  WorkGate gate_;
  FailingOps ops_;
};

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_FAILING_BACKEND_H_
