#include "engine/lora/pinned_pages.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "engine/core/status_macros.h"

namespace lorad {

absl::Status PinnedPages::Warm(int64_t bytes) {
  const int64_t pages = std::min(bytes, kept_bytes_) / page_bytes_;
  if (pages == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(warm_, allocator_.Allocate(pages * page_bytes_, MemoryTag::kPinned));
  absl::MutexLock lock(&mu_);
  for (int64_t i = pages - 1; i >= 0; --i)
    free_.emplace_back(static_cast<char*>(warm_.data()) + i * page_bytes_, page_bytes_,
                       [](void*) {});
  pages_ += pages;
  return absl::OkStatus();
}

bool PinnedPages::IsWarm(const DeviceBuffer& page) const {
  const auto* const data = static_cast<const char*>(page.data());
  const auto* const begin = static_cast<const char*>(warm_.data());
  return begin != nullptr && std::greater_equal<>()(data, begin) &&
         std::less<>()(data, begin + warm_.size_bytes());
}

bool PinnedPages::LacksLocked(int64_t bytes) const {
  const auto free = static_cast<int64_t>(free_.size()) + adding_;
  return !no_more_ && free < bytes / page_bytes_ && (pages_ + 1) * page_bytes_ <= kept_bytes_;
}

bool PinnedPages::Lacks(int64_t bytes) const {
  absl::MutexLock lock(&mu_);
  return LacksLocked(bytes);
}

void PinnedPages::Add(int64_t bytes) {
  {
    absl::MutexLock lock(&mu_);
    if (!LacksLocked(bytes)) return;
    ++pages_;
    ++adding_;
  }
  absl::StatusOr<DeviceBuffer> page = allocator_.Allocate(page_bytes_, MemoryTag::kPinned);
  absl::MutexLock lock(&mu_);
  --adding_;
  if (page.ok()) {
    free_.push_back(*std::move(page));
  } else {
    --pages_;
    no_more_ = true;
  }
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
  if (pages_ * page_bytes_ <= kept_bytes_ || IsWarm(page)) {
    free_.push_back(std::move(page));
  } else {
    surplus = std::move(page);
    --pages_;
  }
}

}  // namespace lorad
