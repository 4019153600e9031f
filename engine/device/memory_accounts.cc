#include "engine/device/memory_accounts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lorad {

absl::Status MemoryAccounts::Enter(int64_t bytes, MemoryTag tag) {
  absl::MutexLock lock(&mutex_);
  MemoryUsage& usage = usage_[static_cast<int>(tag)];
  if (usage.limit_bytes > 0 && bytes > usage.limit_bytes - usage.used_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(Name(tag), " memory: ", bytes, " bytes needed, ",
                     usage.limit_bytes - usage.used_bytes, " of ", usage.limit_bytes, " free"));
  }
  usage.used_bytes += bytes;
  usage.peak_bytes = std::max(usage.peak_bytes, usage.used_bytes);
  return absl::OkStatus();
}

void MemoryAccounts::Leave(int64_t bytes, MemoryTag tag) {
  absl::MutexLock lock(&mutex_);
  usage_[static_cast<int>(tag)].used_bytes -= bytes;
}

void MemoryAccounts::Move(int64_t bytes, MemoryTag from, MemoryTag to) {
  absl::MutexLock lock(&mutex_);
  usage_[static_cast<int>(from)].used_bytes -= bytes;
  MemoryUsage& usage = usage_[static_cast<int>(to)];
  usage.used_bytes += bytes;
  usage.peak_bytes = std::max(usage.peak_bytes, usage.used_bytes);
}

MemoryUsage MemoryAccounts::Usage(MemoryTag tag) const {
  absl::MutexLock lock(&mutex_);
  return usage_[static_cast<int>(tag)];
}

void MemoryAccounts::SetLimit(MemoryTag tag, int64_t limit_bytes) {
  absl::MutexLock lock(&mutex_);
  usage_[static_cast<int>(tag)].limit_bytes = limit_bytes;
}

}  // namespace lorad
