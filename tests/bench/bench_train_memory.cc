#include "tests/bench/bench_train_memory.h"

#include <algorithm>

namespace lorad::bench {

MemoryPeaks::MemoryPeaks(const Allocator& allocator) : allocator_(allocator) {
  for (int i = 0; i < kNumMemoryTags; ++i)
    peaks_before_[i] = allocator_.Usage(static_cast<MemoryTag>(i)).peak_bytes;
  Sample();
}

void MemoryPeaks::Sample() {
  for (int i = 0; i < kNumMemoryTags; ++i)
    sampled_[i] = std::max(sampled_[i], allocator_.Usage(static_cast<MemoryTag>(i)).used_bytes);
}

int64_t MemoryPeaks::Peak(MemoryTag tag) const {
  const int i = static_cast<int>(tag);
  const int64_t peak = allocator_.Usage(tag).peak_bytes;
  return peak > peaks_before_[i] ? peak : sampled_[i];
}

int64_t MemoryPeaks::DevicePeak() const {
  int64_t bytes = 0;
  for (int i = 0; i < kNumMemoryTags; ++i) {
    const auto tag = static_cast<MemoryTag>(i);
    if (tag != MemoryTag::kPinned) bytes += Peak(tag);
  }
  return bytes;
}

int64_t UsedDeviceBytes(const Allocator& allocator) {
  int64_t bytes = 0;
  for (int i = 0; i < kNumMemoryTags; ++i) {
    const auto tag = static_cast<MemoryTag>(i);
    if (tag != MemoryTag::kPinned) bytes += allocator.Usage(tag).used_bytes;
  }
  return bytes;
}

}  // namespace lorad::bench
