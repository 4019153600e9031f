#include "tests/bench/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>

#include "engine/core/status_macros.h"
#include "tests/bench/read_peak.h"

namespace lorad::bench {
namespace {

// Beyond any cache; ten copies are long enough for the clock and for the queue's latency.
constexpr int64_t kBytes = int64_t{1} << 29;
constexpr int kCopies = 10, kRuns = 5;

absl::StatusOr<double> MeasureCopies(Backend& backend) {
  Allocator& allocator = backend.allocator();
  ASSIGN_OR_RETURN(const std::unique_ptr<Stream> stream, backend.CreateStream());
  ASSIGN_OR_RETURN(const DeviceBuffer from, allocator.Allocate(kBytes, MemoryTag::kWorkspace));
  ASSIGN_OR_RETURN(const DeviceBuffer to, allocator.Allocate(kBytes, MemoryTag::kWorkspace));
  RETURN_IF_ERROR(backend.Zero(from.data(), kBytes, *stream));
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    RETURN_IF_ERROR(stream->Synchronize());
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kCopies; ++i)
      RETURN_IF_ERROR(backend.Copy(to.data(), from.data(), kBytes, *stream));
    RETURN_IF_ERROR(stream->Synchronize());
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, 2.0 * kBytes * kCopies / seconds.count());
  }
  return best;
}

}  // namespace

absl::StatusOr<double> MeasureBandwidth(Backend& backend) {
  if (backend.info().kind != "cpu") return MeasureCopies(backend);
  const auto threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return MeasureReadBytesPerSecond(kBytes, threads);
}

}  // namespace lorad::bench
