// The reference device: host memory, work done at the call.
#include <sys/sysinfo.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/core/arena.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/device/backend.h"
#include "engine/device/memory_accounts.h"
#include "engine/ops/cpu/cpu_ops.h"

namespace lorad {
namespace {

class CpuAllocator final : public Allocator {
 public:
  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes, MemoryTag tag) override {
    RETURN_IF_ERROR(accounts_.Enter(bytes, tag));
    const int64_t rounded = std::max(RoundUp(bytes, Arena::kAlignment), Arena::kAlignment);
    void* data = std::aligned_alloc(Arena::kAlignment, static_cast<size_t>(rounded));
    if (data == nullptr) {
      accounts_.Leave(bytes, tag);
      return absl::ResourceExhaustedError(
          absl::StrCat(Name(tag), " memory: the host has no ", bytes, " bytes left"));
    }
    return DeviceBuffer(data, bytes, [this, bytes, tag](void* block) {
      std::free(block);
      accounts_.Leave(bytes, tag);
    });
  }
  MemoryUsage Usage(MemoryTag tag) const override { return accounts_.Usage(tag); }
  void SetLimit(MemoryTag tag, int64_t limit_bytes) override {
    accounts_.SetLimit(tag, limit_bytes);
  }
  void Retag(int64_t bytes, MemoryTag from, MemoryTag to) override {
    accounts_.Move(bytes, from, to);
  }

 private:
  MemoryAccounts accounts_;
};

class CpuStream final : public Stream {
 public:
  absl::Status Synchronize() override { return absl::OkStatus(); }
};

class CpuEvent final : public Event {
 public:
  absl::Status Record(Stream&) override {
    recorded_ = absl::Now();
    return absl::OkStatus();
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::StatusOr<absl::Duration> Since(Event& earlier) override {
    return recorded_ - static_cast<CpuEvent&>(earlier).recorded_;
  }
  absl::Status Wait(Stream&) override { return absl::OkStatus(); }
  absl::StatusOr<bool> Done() override { return true; }

 private:
  absl::Time recorded_ = absl::InfinitePast();
};

int64_t HostMemoryBytes() {
  struct sysinfo info = {};
  if (sysinfo(&info) != 0) return 0;
  return static_cast<int64_t>(info.totalram) * info.mem_unit;
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(bool double_precision, int num_threads, FlopCounter* flops)
      : dtype_(double_precision ? DType::kF64 : DType::kF32),
        ops_(CreateCpuOps(double_precision, num_threads, flops)) {}

  const DeviceInfo& info() const override { return info_; }
  DType activation_dtype() const override { return dtype_; }
  DType adapter_dtype() const override { return dtype_; }
  Allocator& allocator() override { return allocator_; }
  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override {
    return std::make_unique<CpuEvent>();
  }
  absl::Status Copy(void* to, const void* from, int64_t bytes, Stream&) override {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
  absl::Status Zero(void* data, int64_t bytes, Stream&) override {
    std::memset(data, 0, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
  Ops& ops() override { return *ops_; }

 private:
  absl::StatusOr<std::unique_ptr<Stream>> MakeStream(StreamPriority) override {
    return std::make_unique<CpuStream>();
  }

  const DeviceInfo info_{.name = "cpu", .kind = "cpu", .memory_bytes = HostMemoryBytes()};
  const DType dtype_;
  CpuAllocator allocator_;
  const std::unique_ptr<Ops> ops_;
};

}  // namespace

std::unique_ptr<Backend> CreateCpuBackend(const CpuBackendOptions& options) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return std::make_unique<CpuBackend>(options.double_precision,
                                      options.num_threads > 0 ? options.num_threads : cores,
                                      options.flops);
}

}  // namespace lorad
