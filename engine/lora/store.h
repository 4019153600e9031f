// The registered adapters and where their weights are: on disk, in host memory, on the device.
// Sources: S-LoRA (Sheng et al., 2023) for the tiers, the unified pages and the prefetch.
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
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/lora/adapter.h"
#include "engine/lora/adapter_memory.h"
#include "engine/lora/pinned_pages.h"
#include "engine/lora/store_options.h"

namespace lorad {

// What is known of an adapter without its weights.
struct AdapterSummary {
  std::string id;  // AdapterDigest
  AdapterConfig config;
  int32_t max_rank = 0;
  int64_t modules = 0;
  int64_t parameters = 0;
  int64_t device_bytes = 0;  // of whole pages
};

enum class ResidentTier { kDisk, kHost, kDevice };
struct AdapterStatus {
  std::string id;
  ResidentTier tier = ResidentTier::kDisk;
  int32_t pins = 0;
  int64_t device_bytes = 0;  // 0 unless on the device
};

// Files are read and converted by threads of its own, and copies to the device run on a stream of
// their own: decoding waits for neither. Device copies are made and freed on the engine thread
// alone, in pages of `memory`. When there are no pages left, the least recently used adapter
// without a pin goes; one that a waiting request wants goes only for a request that waits longer.
// An eviction is never an error for anybody: what is needed again is loaded again.
class AdapterStore {
 public:
  struct Entry;
  // Keeps an adapter usable, even when it is unregistered meanwhile; takes no device memory.
  using Lease = std::shared_ptr<Entry>;
  // Keeps it on the device. Dropped on the engine thread.
  using Pin = std::shared_ptr<const DeviceAdapter>;

  // Nothing is owned.
  AdapterStore(const ModelConfig& model, Backend& backend, AdapterMemory& memory,
               AdapterStoreOptions options);
  ~AdapterStore();  // REQUIRES: no pins are left

  // ---- Thread-safe.
  // Reads and checks; changes nothing. Errors of reading; kInvalidArgument when the rank is
  // above max_rank; kResourceExhausted when it is larger than max_adapter_bytes.
  absl::StatusOr<AdapterSummary> Inspect(const std::string& dir) const;
  // Inspect, and known by its id from now on. The directory must stay. Makes a host copy where
  // there is none, if there is memory for it now.
  absl::StatusOr<AdapterSummary> Register(const std::string& dir);
  // Registers weights that have no files yet, and begins to bring them onto the device. They stay
  // in host memory until Register names the directory that holds them. Errors as of Inspect.
  absl::StatusOr<AdapterSummary> Publish(const AdapterConfig& config,
                                         absl::Span<const AdapterModuleView> modules);
  // Forgets the id; holders of leases go on. kNotFound; errors of reading the files, when a holder
  // will need them and they are not in memory.
  absl::Status Unregister(const std::string& id);
  // kNotFound names the id.
  absl::StatusOr<Lease> Find(const std::string& id) const;
  absl::StatusOr<AdapterSummary> Describe(const std::string& id) const;
  static const std::string& Id(const Lease& lease);
  // Ends the threads that read files, when their running reads are done: no wake() after this.
  void StopLoading();
  std::vector<AdapterStatus> List() const;

  // ---- Engine thread.
  enum class Progress {
    kPinned,
    kLoading,  // it is being read, copied or unloaded; wake(), or copying() says when to try again
    kNoRoom,   // others hold the pages; try again when they let go
  };
  // kPinned sets `pin`. An error is final for whoever asked: the files are gone or have changed.
  // Never blocks.
  absl::StatusOr<Progress> TryPin(const Lease& lease, Pin* pin);
  // The adapters of the waiting requests from now on, in the order of these; null: the base model.
  void SetWanted(std::vector<Lease> wanted);
  // Begins what can be begun for them, in this order, and leaves `spare_pages` pages free.
  void Prefetch(int64_t spare_pages);
  // It is being read, copied or unloaded: TryPin would only say kLoading.
  bool OnItsWay(const Lease& lease);
  // Evicts adapters without a pin until they have given back `pages` pages, but none that is wanted
  // at `place` of that list or before; -1: any. False, with nothing changed, when they have not so
  // many.
  bool GiveUpPages(int64_t pages, int64_t place);
  // A copy to the device is under way, or has ended since NoteAsked(): whoever was told kLoading
  // before it ended has to ask again.
  bool copying() const { return !copies_.empty() || arrived_; }
  // All that wait are about to ask.
  void NoteAsked() { arrived_ = false; }
  // Frees the host and device copies. False while pins or a load hold it: no new pin is given then,
  // until a later call returns true or CancelUnload.
  bool TryUnload(const Lease& lease);
  void CancelUnload(const Lease& lease);
  // Frees the device copies of unregistered adapters that nobody uses any more, and tells `gone`
  // their ids. False while some are in use: call again.
  bool Sweep(const std::function<void(const std::string& id)>& gone);

 private:
  struct Counted;  // a pin that counts itself
  struct Copying;  // a copy to the device that is under way
  using Image = std::shared_ptr<const AdapterImage>;

  absl::StatusOr<HostAdapter> Read(const std::string& dir) const;
  absl::StatusOr<AdapterSummary> Summarise(const AdapterConfig& config,
                                           absl::Span<const AdapterModuleView> modules,
                                           const std::string& where) const;
  absl::StatusOr<Image> MakeImage(const std::string& id,
                                  absl::Span<const AdapterModuleView> modules) const;
  absl::StatusOr<Image> MakeFirstImage(const AdapterSummary& summary,
                                       absl::Span<const AdapterModuleView> modules) const;
  bool HasImage(const std::string& id) const ABSL_LOCKS_EXCLUDED(mu_);
  // Reads the files of a registered adapter, which must still be its own.
  absl::StatusOr<Image> ReadImage(const std::string& dir, const std::string& id) const;
  absl::Status UnregisterEntry(const std::string& id);
  Lease Enter(const AdapterSummary& summary, Image image) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Retire(const Lease& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SetImage(Entry& entry, Image image) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DropImage(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TrimHost() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Loader threads.
  void LoadLoop();
  bool HasReads() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return stopping_ || !load_queue_.empty();
  }
  bool LoaderHasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return HasReads() || pinned_.Lacks(options_.warm_host_bytes);
  }
  bool WaitForQuiet() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // No page is locked for so long.
  void KeepQuiet(absl::Duration time) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void QueueRead(const Lease& lease) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Engine thread.
  enum class Next { kRead, kCopy, kWait, kDone };  // what an adapter needs to be on the device
  Next NextOf(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status BeginCopy(const Lease& lease, int64_t place);
  template <typename Visit>
  void ForIdle(int64_t place, const Visit& visit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int64_t EvictIdle(int64_t place);
  bool FreePages(int64_t pages, int64_t place);
  void FinishCopies();
  void PrefetchPublished();
  bool PrefetchOne(const Lease& lease, int64_t place, int64_t spare_pages);
  int64_t PlaceOf(const Entry* entry) const;
  absl::Status TellFailure(Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReportLoad(Entry& entry, double copy_seconds, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const ModelConfig model_;
  Backend& backend_;
  AdapterMemory& memory_;
  const AdapterStoreOptions options_;
  mutable PinnedPages pinned_;

  // Engine thread.
  std::unique_ptr<Stream> stream_;
  std::vector<Copying> copies_;  // in the order of the stream
  bool arrived_ = false;         // a copy has ended since NoteAsked()
  std::vector<Lease> wanted_;
  absl::flat_hash_map<const Entry*, int64_t> places_;  // the first in wanted_

  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, Lease> entries_ ABSL_GUARDED_BY(mu_);
  std::vector<Lease> retired_ ABSL_GUARDED_BY(mu_);     // unregistered, until nobody uses them
  std::vector<Lease> load_queue_ ABSL_GUARDED_BY(mu_);  // first in, first out
  std::vector<Lease> published_ ABSL_GUARDED_BY(mu_);   // to be brought onto the device
  int64_t host_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t clock_ ABSL_GUARDED_BY(mu_) = 0;  // of last uses
  absl::Time quiet_until_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> loaders_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_STORE_H_
