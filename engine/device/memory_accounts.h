// What every allocator keeps of each tag: bytes in use, their peak, their limit.
#ifndef LORAD_ENGINE_DEVICE_MEMORY_ACCOUNTS_H_
#define LORAD_ENGINE_DEVICE_MEMORY_ACCOUNTS_H_

#include <array>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "engine/device/memory.h"

namespace lorad {

// Thread-safe.
class MemoryAccounts {
 public:
  // Before memory is taken. kResourceExhausted, with the needed and the free bytes, past the limit.
  absl::Status Enter(int64_t bytes, MemoryTag tag);
  // When it was given back, or could not be had.
  void Leave(int64_t bytes, MemoryTag tag);
  void Move(int64_t bytes, MemoryTag from, MemoryTag to);

  MemoryUsage Usage(MemoryTag tag) const;
  void SetLimit(MemoryTag tag, int64_t limit_bytes);

 private:
  mutable absl::Mutex mutex_;
  std::array<MemoryUsage, kNumMemoryTags> usage_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorad

#endif  // LORAD_ENGINE_DEVICE_MEMORY_ACCOUNTS_H_
