// What callers of any thread do: registering, publishing, forgetting, looking.
#include "engine/lora/store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "engine/lora/peft.h"
#include "engine/lora/store_entry.h"

namespace lorad {
namespace {

absl::Status UnknownId(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("no adapter with id ", id, " is registered"));
}

}  // namespace

AdapterStore::AdapterStore(const ModelConfig& model, Backend& backend, AdapterMemory& memory,
                           AdapterStoreOptions options)
    : model_(model),
      backend_(backend),
      memory_(memory),
      options_(std::move(options)),
      pinned_(backend.allocator(), memory.page_bytes(), options_.host_limit_bytes) {
  // Want of memory meets whoever needs the pages.
  (void)pinned_.Warm(options_.warm_host_bytes);
  for (int32_t i = 0; i < options_.loaders; ++i) loaders_.emplace_back([this] { LoadLoop(); });
}

AdapterStore::~AdapterStore() {
  StopLoading();
  if (stream_ != nullptr) (void)stream_->Synchronize();  // copies use the pages
}

absl::StatusOr<HostAdapter> AdapterStore::Read(const std::string& dir) const {
  return options_.read ? options_.read(dir) : ReadPeftAdapter(dir, model_);
}

absl::StatusOr<AdapterSummary> AdapterStore::Summarise(const AdapterConfig& config,
                                                       absl::Span<const AdapterModuleView> modules,
                                                       const std::string& where) const {
  AdapterSummary summary;
  summary.config = config;
  for (const AdapterModuleView& module : modules) {
    summary.max_rank = std::max(summary.max_rank, module.rank);
    summary.parameters += static_cast<int64_t>(module.a.size() + module.b.size());
  }
  summary.modules = static_cast<int64_t>(modules.size());
  summary.device_bytes =
      LayOutAdapter(modules, backend_.activation_dtype(), memory_.page_bytes()).size_bytes();
  if (summary.max_rank > options_.max_rank) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s has rank %d; this daemon serves ranks up to %d", where,
                        summary.max_rank, options_.max_rank));
  }
  if (options_.max_adapter_bytes > 0 && summary.device_bytes > options_.max_adapter_bytes) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s needs %d bytes of device memory and one adapter may have %d; raise --memory_limit or "
        "train a smaller rank",
        where, summary.device_bytes, options_.max_adapter_bytes));
  }
  summary.id = AdapterDigest(modules);
  return summary;
}

absl::StatusOr<AdapterSummary> AdapterStore::Inspect(const std::string& dir) const {
  ASSIGN_OR_RETURN(const HostAdapter adapter, Read(dir));
  return Summarise(adapter.config, Views(adapter), absl::StrCat("the adapter in ", dir));
}

absl::StatusOr<AdapterSummary> AdapterStore::Register(const std::string& dir) {
  ASSIGN_OR_RETURN(const HostAdapter adapter, Read(dir));
  const std::vector<AdapterModuleView> modules = Views(adapter);
  ASSIGN_OR_RETURN(AdapterSummary summary,
                   Summarise(adapter.config, modules, absl::StrCat("the adapter in ", dir)));
  ASSIGN_OR_RETURN(Image image, MakeFirstImage(summary, modules));
  absl::MutexLock lock(&mu_);
  Enter(summary, std::move(image))->dir = dir;
  TrimHost();
  return summary;
}

// It is likely to be used soon. Null: it has one, or none would fit; then it is read again when it
// is needed.
absl::StatusOr<AdapterStore::Image> AdapterStore::MakeFirstImage(
    const AdapterSummary& summary, absl::Span<const AdapterModuleView> modules) const {
  if (summary.device_bytes > options_.host_limit_bytes || HasImage(summary.id)) return nullptr;
  absl::StatusOr<Image> image = MakeImage(summary.id, modules);
  if (absl::IsResourceExhausted(image.status())) return nullptr;
  return image;
}

bool AdapterStore::HasImage(const std::string& id) const {
  absl::MutexLock lock(&mu_);
  const auto found = entries_.find(id);
  return found != entries_.end() && found->second->image != nullptr;
}

absl::StatusOr<AdapterSummary> AdapterStore::Publish(const AdapterConfig& config,
                                                     absl::Span<const AdapterModuleView> modules) {
  const absl::Time began = absl::Now();
  {
    absl::MutexLock lock(&mu_);
    KeepQuiet(options_.lock_after);
  }
  ASSIGN_OR_RETURN(AdapterSummary summary, Summarise(config, modules, "the trained adapter"));
  ASSIGN_OR_RETURN(Image image, MakeImage(summary.id, modules));
  {
    absl::MutexLock lock(&mu_);
    const Lease entry = Enter(summary, std::move(image));
    if (entry->device == nullptr) {
      entry->source = "training";
      entry->source_seconds = absl::ToDoubleSeconds(absl::Now() - began);
      published_.push_back(entry);
    }
    TrimHost();
  }
  options_.wake();
  return summary;
}

absl::StatusOr<AdapterStore::Image> AdapterStore::MakeImage(
    const std::string& id, absl::Span<const AdapterModuleView> modules) const {
  return AdapterImage::Create(id, modules, backend_.activation_dtype(), pinned_);
}

AdapterStore::Lease AdapterStore::Enter(const AdapterSummary& summary, Image image) {
  Lease& entry = entries_[summary.id];
  if (entry == nullptr) {
    entry = std::make_shared<Entry>();
    entry->id = summary.id;
    entry->summary = summary;
    entry->last_use = ++clock_;
  }
  if (image != nullptr) SetImage(*entry, std::move(image));
  return entry;
}

void AdapterStore::SetImage(Entry& entry, Image image) {
  if (entry.image != nullptr) return;  // it has the same content
  host_bytes_ += image->size_bytes();
  entry.image = std::move(image);
  KeepQuiet(options_.lock_after);
}

void AdapterStore::DropImage(Entry& entry) {
  if (entry.image == nullptr) return;
  host_bytes_ -= entry.image->size_bytes();
  entry.image.reset();
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
    if (found == entries_.end()) return UnknownId(id);
    entry = found->second;
    if (entry->image != nullptr || entry.use_count() == 2) {  // the map's and ours: no holder
      Retire(entry);
      return absl::OkStatus();
    }
    dir = entry->dir;
  }
  ASSIGN_OR_RETURN(Image image, ReadImage(dir, id));
  absl::MutexLock lock(&mu_);
  SetImage(*entry, std::move(image));
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
  if (found == entries_.end()) return UnknownId(id);
  return found->second;
}

absl::StatusOr<AdapterSummary> AdapterStore::Describe(const std::string& id) const {
  ASSIGN_OR_RETURN(const Lease lease, Find(id));
  return lease->summary;
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
    } else if (entry->image != nullptr) {
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
      if (entry->image == nullptr || wanted || !entry->replaceable()) continue;
      if (oldest == nullptr || entry->last_use < oldest->last_use) oldest = entry.get();
    }
    if (oldest == nullptr) return;  // all that is left is needed
    DropImage(*oldest);
  }
}

}  // namespace lorad
