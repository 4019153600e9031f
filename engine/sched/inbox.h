// The way from RPC threads to the engine thread.
#ifndef LORAD_ENGINE_SCHED_INBOX_H_
#define LORAD_ENGINE_SCHED_INBOX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/lora/store.h"
#include "engine/sched/sequence.h"
#include "engine/train/sliced_job.h"

namespace lorad {

// Brings an adapter onto the device, or off it.
struct AdapterTask {
  enum class Kind { kLoad, kUnload };
  Kind kind = Kind::kLoad;
  AdapterStore::Lease lease;
  absl::Time deadline = absl::InfiniteFuture();
  std::function<void(const absl::Status&)> done;  // once, on the engine thread
};

struct TrainingStart {
  uint64_t id = 0;
  std::unique_ptr<SlicedJob> job;
  std::shared_ptr<TrainingSink> sink;
};

struct TrainingStop {
  uint64_t id = 0;
  bool checkpoint = false;
};

// What arrived since the last look, to be carried out in this order.
struct Mail {
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::vector<uint64_t> cancellations;
  std::vector<AdapterTask> adapter_tasks;
  std::vector<TrainingStart> training_starts;
  std::vector<TrainingStop> training_stops;
};

// Bounded by the number of sequences that wait for their first slot, here or in the scheduler.
// Thread-safe.
class Inbox {
 public:
  explicit Inbox(int32_t max_queued) : max_queued_(max_queued) {}

  // Gives the sequence its id and takes it. kResourceExhausted: the queue is full, with its length.
  // kUnavailable: closed.
  absl::StatusOr<uint64_t> Put(std::unique_ptr<Sequence> sequence);
  // All or none; ids in the order of `sequences`.
  absl::StatusOr<std::vector<uint64_t>> PutAll(std::vector<std::unique_ptr<Sequence>> sequences);
  absl::Status Put(AdapterTask task);
  absl::Status Put(TrainingStart start);
  void Put(TrainingStop stop);
  void Cancel(uint64_t sequence);
  // Ends a wait.
  void Wake();
  // From now on Put returns kUnavailable with this message; what was taken stays.
  void Close(std::string why);

  // ---- Engine thread.
  Mail Take();
  // `count` sequences got their first slot or ended without one.
  void LeftQueue(int32_t count);
  // Blocks until something arrives, Wake(), or `until`.
  void Wait(absl::Time until);

  // Sequences that wait for their first slot.
  int32_t queued() const;
  // Something has arrived.
  bool pending() const;

 private:
  absl::Status CheckOpen() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckRoom(int64_t count) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint64_t Add(std::unique_ptr<Sequence> sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int32_t max_queued_;
  mutable absl::Mutex mu_;
  Mail mail_ ABSL_GUARDED_BY(mu_);
  bool pending_ ABSL_GUARDED_BY(mu_) = false;
  int32_t queued_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::string why_closed_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_INBOX_H_
