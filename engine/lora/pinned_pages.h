#ifndef LORAD_ENGINE_LORA_PINNED_PAGES_H_
#define LORAD_ENGINE_LORA_PINNED_PAGES_H_

#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/device/memory.h"

namespace lorad {

// Pages of page-locked host memory under MemoryTag::kPinned. Locking and unlocking pages is slow
// and stalls a GPU's driver, so what was taken once is kept for the next user, up to a limit.
// Thread-safe; must outlive its pages.
class PinnedPages {
 public:
  // `allocator` is not owned. Up to `kept_bytes` are kept, in use or not.
  PinnedPages(Allocator& allocator, int64_t page_bytes, int64_t kept_bytes)
      : allocator_(allocator), page_bytes_(page_bytes), kept_bytes_(kept_bytes) {}

  int64_t page_bytes() const { return page_bytes_; }
  // Takes what `bytes` need, within the limit, as one block that is kept for good: locking takes a
  // driver milliseconds however few bytes it is, and small models have thousands of pages in it.
  // REQUIRES: nothing was taken yet.
  absl::Status Warm(int64_t bytes);
  // Fewer than `bytes` are free, and there may be more within the limit.
  bool Lacks(int64_t bytes) const;
  // Takes one page to be kept, if they still are fewer. Want of memory is noted, and nothing lacks
  // from then on.
  void Add(int64_t bytes);
  // The limit does not bound this. kResourceExhausted when the host has no more memory to lock.
  absl::StatusOr<DeviceBuffer> Take();
  // REQUIRES: Take() gave `page`; no queued work uses it.
  void Return(DeviceBuffer page);

 private:
  bool IsWarm(const DeviceBuffer& page) const;
  bool LacksLocked(int64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Allocator& allocator_;
  const int64_t page_bytes_;
  const int64_t kept_bytes_;
  DeviceBuffer warm_;  // goes after the pages in it
  mutable absl::Mutex mu_;
  std::vector<DeviceBuffer> free_ ABSL_GUARDED_BY(mu_);
  int64_t pages_ ABSL_GUARDED_BY(mu_) = 0;   // in use and free
  int64_t adding_ ABSL_GUARDED_BY(mu_) = 0;  // of these, on their way to free_
  bool no_more_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_PINNED_PAGES_H_
