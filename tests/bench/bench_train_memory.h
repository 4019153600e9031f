// How much memory a benchmark took, by lorad's own count and by the device's.
#ifndef LORAD_TESTS_BENCH_BENCH_TRAIN_MEMORY_H_
#define LORAD_TESTS_BENCH_BENCH_TRAIN_MEMORY_H_

#include <array>
#include <cstdint>

#include "engine/device/memory.h"

namespace lorad::bench {

// Free bytes of a GPU as its driver counts them; -1 in a build without CUDA, or on an error.
int64_t FreeDeviceBytes(int device);

// Peaks by tag from the construction on. An allocator's own peaks are of the whole process: a tag's
// counts where it has grown since, else the most seen by Sample().
class MemoryPeaks {
 public:
  // Not owned.
  explicit MemoryPeaks(const Allocator& allocator);

  void Sample();
  int64_t Peak(MemoryTag tag) const;
  int64_t DevicePeak() const;  // all tags but kPinned, which is the host's

 private:
  const Allocator& allocator_;
  std::array<int64_t, kNumMemoryTags> peaks_before_{}, sampled_{};
};

// Bytes that are in use now on the device: all tags but kPinned.
int64_t UsedDeviceBytes(const Allocator& allocator);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BENCH_TRAIN_MEMORY_H_
