#include "engine/lora/pinned_pages.h"

#include <algorithm>
#include <utility>

namespace lorad {

absl::Status PinnedPages::Warm(int64_t bytes) {
  std::vector<DeviceBuffer> pages;
  absl::Status status;
  for (int64_t i = 0; i < std::min(bytes, kept_bytes_) / page_bytes_ && status.ok(); ++i) {
    absl::StatusOr<DeviceBuffer> page = Take();
    status = page.status();
    if (page.ok()) pages.push_back(*std::move(page));
  }
  for (DeviceBuffer& page : pages) Return(std::move(page));
  return status;
}

absl::StatusOr<DeviceBuffer> PinnedPages::Take() {
  {
    absl::MutexLock lock(&mu_);
    if (!free_.empty()) {
      DeviceBuffer page = std::move(free_.back());
      free_.pop_back();
      return page;
    }
    ++pages_;
  }
  absl::StatusOr<DeviceBuffer> page = allocator_.Allocate(page_bytes_, MemoryTag::kPinned);
  if (page.ok()) return page;
  absl::MutexLock lock(&mu_);
  --pages_;
  return page;
}

void PinnedPages::Return(DeviceBuffer page) {
  DeviceBuffer surplus;  // unlocked after the mutex is
  absl::MutexLock lock(&mu_);
  if (pages_ * page_bytes_ <= kept_bytes_) {
    free_.push_back(std::move(page));
  } else {
    surplus = std::move(page);
    --pages_;
  }
}

}  // namespace lorad
