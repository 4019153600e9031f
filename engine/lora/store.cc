#include "engine/lora/store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "engine/lora/peft.h"

namespace lorad {

// Guarded by the store's mutex; `device` is changed by the engine thread alone.
struct AdapterStore::Entry {
  std::string id;  // never changes
  std::string dir;
  std::shared_ptr<const HostAdapter> host;
  std::shared_ptr<const DeviceAdapter> device;
  absl::Status load_status;  // of the last load, until somebody has been told
  double disk_seconds = 0;   // that the loader took for `host`, until it is on the device
  bool loading = false;      // in the loader's hands
  bool unloading = false;
  bool retired = false;  // unregistered: the files may be gone, so the host copy stays
  int32_t pins = 0;
  uint64_t last_use = 0;
};

struct AdapterStore::Counted {
  AdapterStore* const store;
  const Lease lease;
  std::shared_ptr<const DeviceAdapter> device;

  Counted(AdapterStore* store, Lease holder) : store(store), lease(std::move(holder)) {
    absl::MutexLock lock(&store->mu_);
    device = lease->device;
    ++lease->pins;
    lease->last_use = ++store->clock_;
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() {
    device.reset();
    absl::MutexLock lock(&store->mu_);
    --lease->pins;
  }
};

namespace {

int64_t HostBytes(const HostAdapter& adapter) {
  return adapter.num_parameters() * static_cast<int64_t>(sizeof(float));
}

}  // namespace

AdapterStore::AdapterStore(const ModelConfig& model, Backend& backend, AdapterStoreOptions options)
    : model_(model),
      backend_(backend),
      options_(std::move(options)),
      loader_([this] { LoadLoop(); }) {}

AdapterStore::~AdapterStore() { StopLoading(); }

void AdapterStore::StopLoading() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (loader_.joinable()) loader_.join();
}

// ---- Any thread -------------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<const HostAdapter>> AdapterStore::Read(
    const std::string& dir) const {
  ASSIGN_OR_RETURN(HostAdapter adapter,
                   options_.read ? options_.read(dir) : ReadPeftAdapter(dir, model_));
  return std::make_shared<const HostAdapter>(std::move(adapter));
}

absl::StatusOr<AdapterSummary> AdapterStore::Summarise(const HostAdapter& adapter,
                                                       const std::string& dir) const {
  AdapterSummary summary;
  summary.id = AdapterDigest(adapter);
  summary.config = adapter.config;
  for (const AdapterModule& module : adapter.modules)
    summary.max_rank = std::max(summary.max_rank, module.rank);
  summary.modules = static_cast<int64_t>(adapter.modules.size());
  summary.parameters = adapter.num_parameters();
  summary.device_bytes = DeviceAdapterBytes(adapter, backend_);
  if (summary.max_rank > options_.max_rank) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the adapter in %s has rank %d; this daemon serves ranks up to %d", dir,
                        summary.max_rank, options_.max_rank));
  }
  const int64_t limit = backend_.allocator().Usage(MemoryTag::kAdapters).limit_bytes;
  if (limit > 0 && summary.device_bytes > limit) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("the adapter in %s needs %d bytes of device memory and all adapters "
                        "together may have %d; raise --memory_limit or train a smaller rank",
                        dir, summary.device_bytes, limit));
  }
  return summary;
}

absl::StatusOr<AdapterSummary> AdapterStore::Inspect(const std::string& dir) const {
  ASSIGN_OR_RETURN(const std::shared_ptr<const HostAdapter> adapter, Read(dir));
  return Summarise(*adapter, dir);
}

absl::StatusOr<AdapterSummary> AdapterStore::Register(const std::string& dir) {
  ASSIGN_OR_RETURN(std::shared_ptr<const HostAdapter> adapter, Read(dir));
  ASSIGN_OR_RETURN(AdapterSummary summary, Summarise(*adapter, dir));
  absl::MutexLock lock(&mu_);
  Lease& entry = entries_[summary.id];
  if (entry == nullptr) {
    entry = std::make_shared<Entry>();
    entry->id = summary.id;
    entry->last_use = ++clock_;
  }
  entry->dir = dir;
  if (entry->host == nullptr) {
    host_bytes_ += HostBytes(*adapter);
    entry->host = std::move(adapter);
    TrimHost();
  }
  return summary;
}

absl::Status AdapterStore::Unregister(const std::string& id) {
  RETURN_IF_ERROR(UnregisterEntry(id));
  options_.wake();  // Sweep
  return absl::OkStatus();
}

absl::Status AdapterStore::UnregisterEntry(const std::string& id) {
  // Whoever holds a lease may have to load it again after the files are gone.
  Lease entry;
  std::string dir;
  {
    absl::MutexLock lock(&mu_);
    const auto found = entries_.find(id);
    if (found == entries_.end())
      return absl::NotFoundError(absl::StrCat("no adapter with id ", id, " is registered"));
    entry = found->second;
    if (entry->host != nullptr || entry.use_count() == 2) {  // the map's and ours: no holder
      Retire(entry);
      return absl::OkStatus();
    }
    dir = entry->dir;
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const HostAdapter> adapter, Read(dir));
  absl::MutexLock lock(&mu_);
  if (entry->host == nullptr) {
    host_bytes_ += HostBytes(*adapter);
    entry->host = std::move(adapter);
  }
  Retire(entry);
  return absl::OkStatus();
}

void AdapterStore::Retire(const Lease& entry) {
  if (entry->retired) return;
  entry->retired = true;
  entries_.erase(entry->id);
  retired_.push_back(entry);
}

absl::StatusOr<AdapterStore::Lease> AdapterStore::Find(const std::string& id) const {
  absl::MutexLock lock(&mu_);
  const auto found = entries_.find(id);
  if (found == entries_.end())
    return absl::NotFoundError(absl::StrCat("no adapter with id ", id, " is registered"));
  return found->second;
}

const std::string& AdapterStore::Id(const Lease& lease) { return lease->id; }

std::vector<AdapterStatus> AdapterStore::List() const {
  std::vector<AdapterStatus> list;
  absl::MutexLock lock(&mu_);
  for (const auto& [id, entry] : entries_) {
    AdapterStatus status;
    status.id = id;
    status.pins = entry->pins;
    if (entry->device != nullptr) {
      status.tier = ResidentTier::kDevice;
      status.device_bytes = entry->device->size_bytes();
    } else if (entry->host != nullptr) {
      status.tier = ResidentTier::kHost;
    }
    list.push_back(std::move(status));
  }
  std::sort(list.begin(), list.end(),
            [](const AdapterStatus& a, const AdapterStatus& b) { return a.id < b.id; });
  return list;
}

void AdapterStore::TrimHost() {
  while (host_bytes_ > options_.host_limit_bytes) {
    Entry* oldest = nullptr;
    for (const auto& [id, entry] : entries_) {
      const bool wanted = entry->device == nullptr && entry.use_count() > 1;  // by a holder
      if (entry->host == nullptr || wanted) continue;
      if (oldest == nullptr || entry->last_use < oldest->last_use) oldest = entry.get();
    }
    if (oldest == nullptr) return;  // all that is left is needed
    host_bytes_ -= HostBytes(*oldest->host);
    oldest->host.reset();
  }
}

// ---- Loader thread ----------------------------------------------------------------------------

void AdapterStore::LoadLoop() {
  while (true) {
    Lease entry;
    std::string dir;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(this, &AdapterStore::LoaderHasWork));
      if (stopping_) return;
      entry = std::move(load_queue_.front());
      load_queue_.erase(load_queue_.begin());
      dir = entry->dir;
    }
    const absl::Time began = absl::Now();
    absl::StatusOr<std::shared_ptr<const HostAdapter>> adapter = Read(dir);
    absl::Status status = adapter.status();
    if (status.ok() && AdapterDigest(**adapter) != entry->id) {
      status = absl::DataLossError(absl::StrCat("the files in ", dir, " are no longer adapter ",
                                                entry->id, "; import it again"));
    }
    {
      absl::MutexLock lock(&mu_);
      entry->loading = false;
      entry->load_status = status;
      entry->disk_seconds = absl::ToDoubleSeconds(absl::Now() - began);
      if (status.ok() && entry->host == nullptr) {
        host_bytes_ += HostBytes(**adapter);
        entry->host = *std::move(adapter);
        TrimHost();
      }
    }
    entry.reset();
    options_.wake();
  }
}

// ---- Engine thread ----------------------------------------------------------------------------

void AdapterStore::ReportLoad(Entry& entry, double copy_seconds, const absl::Status& status) {
  const char* source = entry.disk_seconds > 0 ? "disk" : "host";
  const double seconds = std::exchange(entry.disk_seconds, 0) + copy_seconds;
  if (options_.observer != nullptr) options_.observer->OnAdapterLoad(source, status, seconds);
}

absl::StatusOr<AdapterStore::Progress> AdapterStore::TryPin(const Lease& lease, Pin* pin) {
  std::shared_ptr<const HostAdapter> host;
  {
    absl::MutexLock lock(&mu_);
    if (lease->unloading || lease->loading) return Progress::kLoading;
    if (!lease->load_status.ok()) {
      ReportLoad(*lease, 0, lease->load_status);
      return std::exchange(lease->load_status, absl::OkStatus());
    }
    if (lease->device == nullptr && lease->host == nullptr) {
      lease->loading = true;
      load_queue_.push_back(lease);
      return Progress::kLoading;
    }
    if (lease->device == nullptr) host = lease->host;
  }
  if (host != nullptr) {
    const absl::Status status = CopyToDevice(lease, std::move(host));
    if (absl::IsResourceExhausted(status) && AnyPinned()) return Progress::kNoRoom;
    RETURN_IF_ERROR(status);
  }
  const auto counted = std::make_shared<Counted>(this, lease);
  *pin = Pin(counted, counted->device.get());
  return Progress::kPinned;
}

absl::Status AdapterStore::CopyToDevice(const Lease& lease,
                                        std::shared_ptr<const HostAdapter> host) {
  if (stream_ == nullptr) {
    ASSIGN_OR_RETURN(stream_, backend_.CreateStream());
  }
  const absl::Time began = absl::Now();
  const auto copy = [&] { return DeviceAdapter::Create(*host, lease->id, backend_, *stream_); };
  absl::StatusOr<std::shared_ptr<const DeviceAdapter>> device = copy();
  while (absl::IsResourceExhausted(device.status()) && EvictOne()) device = copy();
  if (absl::IsResourceExhausted(device.status())) return device.status();
  absl::Status status = device.status();
  if (status.ok()) status = stream_->Synchronize();  // the host copy may go after this

  absl::MutexLock lock(&mu_);
  ReportLoad(*lease, absl::ToDoubleSeconds(absl::Now() - began), status);
  if (status.ok()) lease->device = *std::move(device);
  TrimHost();
  return status;
}

bool AdapterStore::AnyPinned() const {
  absl::MutexLock lock(&mu_);
  const auto pinned = [](const Lease& entry) { return entry->pins > 0; };
  return std::any_of(retired_.begin(), retired_.end(), pinned) ||
         std::any_of(entries_.begin(), entries_.end(),
                     [&](const auto& item) { return pinned(item.second); });
}

bool AdapterStore::EvictOne() {
  std::shared_ptr<const DeviceAdapter> victim;  // freed after the lock is
  absl::MutexLock lock(&mu_);
  Entry* oldest = nullptr;
  const auto consider = [&oldest](const Lease& entry) {
    if (entry->device == nullptr || entry->pins > 0) return;
    if (oldest == nullptr || entry->last_use < oldest->last_use) oldest = entry.get();
  };
  for (const auto& [id, entry] : entries_) consider(entry);
  for (const Lease& entry : retired_) consider(entry);
  if (oldest == nullptr) return false;
  victim = std::move(oldest->device);
  oldest->device.reset();
  if (options_.observer != nullptr) options_.observer->OnAdapterEviction();
  return true;
}

bool AdapterStore::TryUnload(const Lease& lease) {
  std::shared_ptr<const DeviceAdapter> device;
  absl::MutexLock lock(&mu_);
  if (lease->pins > 0 || lease->loading) {
    lease->unloading = true;
    return false;
  }
  device = std::exchange(lease->device, nullptr);
  if (lease->host != nullptr && !lease->retired) {
    host_bytes_ -= HostBytes(*lease->host);
    lease->host.reset();
  }
  lease->unloading = false;
  return true;
}

void AdapterStore::CancelUnload(const Lease& lease) {
  absl::MutexLock lock(&mu_);
  lease->unloading = false;
}

bool AdapterStore::Sweep(const std::function<void(const std::string& id)>& gone) {
  std::vector<Lease> unused;  // freed and told of after the lock is
  bool all = false;
  {
    absl::MutexLock lock(&mu_);
    for (Lease& entry : retired_) {
      if (entry.use_count() > 1) continue;
      if (entry->host != nullptr) host_bytes_ -= HostBytes(*entry->host);
      unused.push_back(std::move(entry));
    }
    std::erase(retired_, nullptr);
    all = retired_.empty();
  }
  for (const Lease& entry : unused) gone(entry->id);
  return all;
}

}  // namespace lorad
