// Passes of one composition that come again and again, recorded once and launched as one piece: at
// a batch of one row a pass is some 200 kernels of a few microseconds each.
#ifndef LORAD_ENGINE_INFER_PASS_GRAPHS_H_
#define LORAD_ENGINE_INFER_PASS_GRAPHS_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "engine/device/backend.h"

namespace lorad {

// All that decides what a decoding pass queues, but for what lies in its inputs: tokens, positions,
// places in the cache, how to draw.
struct PassKey {
  struct Adapter {
    int64_t begin = 0, end = 0;  // rows
    uint64_t instance = 0;       // DeviceAdapter::instance()
    friend auto operator<=>(const Adapter&, const Adapter&) = default;
  };
  int64_t sequences = 0;
  int64_t max_pages = 0;  // width of the page table
  int64_t top = 0;        // likeliest tokens that a row may ask for
  std::vector<Adapter> adapters;
  friend auto operator<=>(const PassKey&, const PassKey&) = default;
};

// The graphs of one stream. A composition is recorded when it comes the kUses-th time in a row:
// recording takes as long as a few passes, and where requests and their adapters change all the
// time it would not pay. Thread-compatible.
class PassGraphs {
 public:
  static constexpr int kUses = 4;
  // More go, the least recently used first; each holds some device memory of the driver's.
  static constexpr size_t kMost = 64;

  // Neither is owned.
  PassGraphs(Backend& backend, Stream& stream) : backend_(backend), stream_(stream) {}

  // Queues a pass. `queue` queues it piece by piece and must always queue the same for the same
  // key. REQUIRES: nothing is queued on the stream.
  absl::Status Run(const PassKey& key, absl::FunctionRef<absl::Status()> queue);

  size_t size() const { return graphs_.size(); }

 private:
  struct Recorded {
    std::unique_ptr<Graph> graph;
    int64_t last_use = 0;
  };

  // Null: it cannot be recorded.
  Graph* Record(const PassKey& key, absl::FunctionRef<absl::Status()> queue);

  Backend& backend_;
  Stream& stream_;
  std::map<PassKey, Recorded> graphs_;
  PassKey last_;
  int uses_ = 0;  // of last_, in a row
  int64_t clock_ = 0;
  bool cannot_record_ = false;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_PASS_GRAPHS_H_
