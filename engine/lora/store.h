// The registered adapters and where their weights are: on disk, in host memory, on the device.
// Sources: S-LoRA (Sheng et al., 2023) for the tiers.
#ifndef LORAD_ENGINE_LORA_STORE_H_
#define LORAD_ENGINE_LORA_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/lora/adapter.h"

namespace lorad {

// What reading a PEFT directory found.
struct AdapterSummary {
  std::string id;  // AdapterDigest
  AdapterConfig config;
  int32_t max_rank = 0;
  int64_t modules = 0;
  int64_t parameters = 0;
  int64_t device_bytes = 0;
};

enum class ResidentTier { kDisk, kHost, kDevice };
struct AdapterStatus {
  std::string id;
  ResidentTier tier = ResidentTier::kDisk;
  int32_t pins = 0;
  int64_t device_bytes = 0;  // 0 unless on the device
};

// Called on the engine thread; must return at once.
class AdapterStoreObserver {
 public:
  virtual ~AdapterStoreObserver() = default;
  // source: "disk" or "host"; the device copy is part of `seconds`.
  virtual void OnAdapterLoad(const char* source, const absl::Status& status, double seconds) = 0;
  virtual void OnAdapterEviction() = 0;
};

// Gives the adapter of a directory, checked against the base model. Called from any thread, and
// more than once for a directory: it must give the same content each time.
using AdapterReader = std::function<absl::StatusOr<HostAdapter>(const std::string& dir)>;

struct AdapterStoreOptions {
  int64_t host_limit_bytes = int64_t{1} << 30;  // of host copies; the least recently used go first
  int32_t max_rank = 0;                         // what the workspace of serving is sized for
  std::function<void()> wake;                // called from any thread when TryPin may get further
  AdapterStoreObserver* observer = nullptr;  // not owned; may be null
  AdapterReader read;  // in place of ReadPeftAdapter: adapters that are in no file; may be empty
};

// Files are read by a thread of its own, so that decoding never waits for a disk; device copies are
// made and freed on the engine thread alone. The device's share is what MemoryTag::kAdapters
// allows: when it is full, the least recently used adapter without a pin goes. An eviction is never
// an error for anybody: what is needed again is loaded again.
class AdapterStore {
 public:
  struct Entry;
  // Keeps an adapter usable, even when it is unregistered meanwhile; takes no device memory.
  using Lease = std::shared_ptr<Entry>;
  // Keeps it on the device. Dropped on the engine thread.
  using Pin = std::shared_ptr<const DeviceAdapter>;

  AdapterStore(const ModelConfig& model, Backend& backend, AdapterStoreOptions options);
  ~AdapterStore();  // REQUIRES: no pins are left

  // ---- Thread-safe.
  // Reads and checks; changes nothing. Errors of ReadPeftAdapter; kInvalidArgument when the rank is
  // above max_rank; kResourceExhausted when it is larger than the device's whole share.
  absl::StatusOr<AdapterSummary> Inspect(const std::string& dir) const;
  // Inspect, and known by its id from now on. The directory must stay.
  absl::StatusOr<AdapterSummary> Register(const std::string& dir);
  // Forgets the id; holders of leases go on. kNotFound; errors of reading the files, when a holder
  // will need them and they are not in memory.
  absl::Status Unregister(const std::string& id);
  // kNotFound names the id.
  absl::StatusOr<Lease> Find(const std::string& id) const;
  static const std::string& Id(const Lease& lease);
  // Ends the thread that reads files: no wake() after this. Blocks until the running read is done.
  void StopLoading();
  std::vector<AdapterStatus> List() const;

  // ---- Engine thread.
  enum class Progress {
    kPinned,
    kLoading,  // its files are being read, or it is being unloaded; wake() will be called
    kNoRoom,   // the device's share is held by pins of others; try again when one is dropped
  };
  // kPinned sets `pin`. An error is final for whoever asked: the files are gone or have changed.
  absl::StatusOr<Progress> TryPin(const Lease& lease, Pin* pin);
  // Frees the host and device copies. False while pins hold it: no new pin is given then, until a
  // later call returns true or CancelUnload.
  bool TryUnload(const Lease& lease);
  void CancelUnload(const Lease& lease);
  // Frees the device copies of unregistered adapters that nobody uses any more, and tells `gone`
  // their ids. False while some are in use: call again.
  bool Sweep(const std::function<void(const std::string& id)>& gone);

 private:
  struct Counted;  // a pin that counts itself

  absl::StatusOr<std::shared_ptr<const HostAdapter>> Read(const std::string& dir) const;
  absl::StatusOr<AdapterSummary> Summarise(const HostAdapter& adapter,
                                           const std::string& dir) const;
  void LoadLoop();  // loader thread
  bool LoaderHasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return stopping_ || !load_queue_.empty();
  }
  absl::Status UnregisterEntry(const std::string& id);
  void Retire(const Lease& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TrimHost() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CopyToDevice(const Lease& lease, std::shared_ptr<const HostAdapter> host);
  void ReportLoad(Entry& entry, double copy_seconds, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool EvictOne();
  bool AnyPinned() const;

  const ModelConfig model_;
  Backend& backend_;
  const AdapterStoreOptions options_;
  std::unique_ptr<Stream> stream_;  // engine thread

  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, Lease> entries_ ABSL_GUARDED_BY(mu_);
  std::vector<Lease> retired_ ABSL_GUARDED_BY(mu_);     // unregistered, until nobody uses them
  std::vector<Lease> load_queue_ ABSL_GUARDED_BY(mu_);  // first in, first out
  int64_t host_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t clock_ ABSL_GUARDED_BY(mu_) = 0;  // of last uses
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread loader_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_STORE_H_
