// What the engine thread does: copies to the device, pins, evictions, unloading.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "engine/lora/store.h"
#include "engine/lora/store_entry.h"

namespace lorad {
namespace {

// Places of adapters that no waiting request wants, and of whoever wants one without waiting in
// line: a request to load, a publication.
constexpr int64_t kUnwanted = std::numeric_limits<int64_t>::max();
constexpr int64_t kOutOfLine = kUnwanted - 1;
// Prefetches under way: enough to keep the bus busy, few enough that a request that comes next is
// not behind many others' copies.
constexpr size_t kMaxCopies = 4;
// Reads that prefetches may have in line: what they bring to host memory is exempt from its limit.
constexpr size_t kMaxReads = 4;

}  // namespace

int64_t AdapterStore::PlaceOf(const Entry* entry) const {
  const auto found = places_.find(entry);
  return found == places_.end() ? kUnwanted : found->second;
}

void AdapterStore::ReportLoad(Entry& entry, double copy_seconds, const absl::Status& status) {
  const char* source = std::exchange(entry.source, "host");
  const double seconds = std::exchange(entry.source_seconds, 0) + copy_seconds;
  if (options_.observer != nullptr) options_.observer->OnAdapterLoad(source, status, seconds);
}

absl::Status AdapterStore::TellFailure(Entry& entry) {
  ReportLoad(entry, 0, entry.load_status);
  return std::exchange(entry.load_status, absl::OkStatus());
}

AdapterStore::Next AdapterStore::NextOf(const Entry& entry) const {
  if (entry.unloading || entry.loading || entry.copying) return Next::kWait;
  if (entry.device != nullptr) return Next::kDone;
  return entry.image != nullptr ? Next::kCopy : Next::kRead;
}

bool AdapterStore::OnItsWay(const Lease& lease) {
  FinishCopies();
  absl::MutexLock lock(&mu_);
  return NextOf(*lease) == Next::kWait;
}

absl::StatusOr<AdapterStore::Progress> AdapterStore::TryPin(const Lease& lease, Pin* pin) {
  FinishCopies();
  Next next;
  {
    absl::MutexLock lock(&mu_);
    next = NextOf(*lease);
    if (next != Next::kWait && !lease->load_status.ok()) return TellFailure(*lease);
    if (next == Next::kRead) QueueRead(lease);
  }
  if (next == Next::kCopy) {
    const absl::Status begun = BeginCopy(lease, std::min(PlaceOf(lease.get()), kOutOfLine));
    if (absl::IsResourceExhausted(begun)) return Progress::kNoRoom;
    RETURN_IF_ERROR(begun);
    FinishCopies();  // where copies are done at once
    absl::MutexLock lock(&mu_);
    if (!lease->load_status.ok()) return TellFailure(*lease);
    next = NextOf(*lease);
  }
  if (next != Next::kDone) return Progress::kLoading;
  const auto counted = std::make_shared<Counted>(this, lease);
  *pin = Pin(counted, counted->device.get());
  return Progress::kPinned;
}

absl::Status AdapterStore::BeginCopy(const Lease& lease, int64_t place) {
  if (stream_ == nullptr) {
    ASSIGN_OR_RETURN(stream_, backend_.CreateStream());
  }
  Copying copy;
  copy.lease = lease;
  copy.began = absl::Now();
  {
    absl::MutexLock lock(&mu_);
    copy.image = lease->image;
  }
  if (!FreePages(copy.image->layout().num_pages(), place)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there is no room for adapter ", lease->id, " on the device now"));
  }
  // Pages that must follow one another may take more than that.
  const auto make = [&] { return DeviceAdapter::Create(*copy.image, memory_, backend_, *stream_); };
  absl::StatusOr<std::shared_ptr<const DeviceAdapter>> device = make();
  while (absl::IsResourceExhausted(device.status()) && EvictIdle(place) > 0) device = make();
  RETURN_IF_ERROR(device.status());
  copy.device = *std::move(device);
  absl::StatusOr<std::unique_ptr<Event>> done = backend_.CreateEvent();
  absl::Status status = done.status();
  if (status.ok()) status = (*done)->Record(*stream_);
  if (!status.ok()) {
    (void)stream_->Synchronize();  // the pages go back
    return status;
  }
  copy.done = *std::move(done);
  absl::MutexLock lock(&mu_);
  lease->copying = true;
  copies_.push_back(std::move(copy));
  return absl::OkStatus();
}

void AdapterStore::FinishCopies() {
  while (!copies_.empty()) {  // they end in the order of their beginning
    const absl::StatusOr<bool> done = copies_.front().done->Done();
    if (done.ok() && !*done) return;
    const Copying copy = std::move(copies_.front());
    copies_.erase(copies_.begin());
    arrived_ = true;
    absl::MutexLock lock(&mu_);
    Entry& entry = *copy.lease;
    entry.copying = false;
    entry.load_status = done.status();
    if (!done.ok()) continue;  // whoever asks is told
    entry.device = copy.device;
    ReportLoad(entry, absl::ToDoubleSeconds(absl::Now() - copy.began), absl::OkStatus());
    TrimHost();
  }
}

// The adapters on the device that may go for whoever waits at `place`.
template <typename Visit>
void AdapterStore::ForIdle(int64_t place, const Visit& visit) {
  const auto consider = [&](Entry& entry) {
    const bool idle = entry.device != nullptr && entry.pins == 0;
    if (idle && PlaceOf(&entry) > place) visit(entry);
  };
  for (const auto& [id, entry] : entries_) consider(*entry);
  for (const Lease& entry : retired_) consider(*entry);
}

// The one that is wanted last goes; among equals, the least recently used. Its pages; 0: none went.
int64_t AdapterStore::EvictIdle(int64_t place) {
  std::shared_ptr<const DeviceAdapter> victim;  // freed after the lock is
  absl::MutexLock lock(&mu_);
  Entry* last = nullptr;
  ForIdle(place, [&](Entry& entry) {
    const int64_t its_place = PlaceOf(&entry), last_place = last == nullptr ? -1 : PlaceOf(last);
    const bool later = its_place > last_place;
    if (later || (its_place == last_place && entry.last_use < last->last_use)) last = &entry;
  });
  if (last == nullptr) return 0;
  victim = std::exchange(last->device, nullptr);
  if (options_.observer != nullptr) options_.observer->OnAdapterEviction();
  return victim->size_bytes() / memory_.page_bytes();
}

bool AdapterStore::GiveUpPages(int64_t pages, int64_t place) {
  if (pages <= 0) return true;
  int64_t idle_bytes = 0;
  {
    absl::MutexLock lock(&mu_);
    ForIdle(place, [&](const Entry& entry) { idle_bytes += entry.device->size_bytes(); });
  }
  if (idle_bytes / memory_.page_bytes() < pages) return false;
  while (pages > 0) {
    const int64_t given = EvictIdle(place);
    if (given == 0) return false;
    pages -= given;
  }
  return true;
}

// For an adapter: within the limit of all together.
bool AdapterStore::FreePages(int64_t pages, int64_t place) {
  return GiveUpPages(pages - memory_.free_pages(), place);
}

void AdapterStore::SetWanted(std::vector<Lease> wanted) {
  wanted_ = std::move(wanted);
  places_.clear();
  for (size_t i = 0; i < wanted_.size(); ++i) {
    if (wanted_[i] != nullptr) places_.try_emplace(wanted_[i].get(), static_cast<int64_t>(i));
  }
}

void AdapterStore::Prefetch(int64_t spare_pages) {
  FinishCopies();
  PrefetchPublished();
  for (size_t i = 0; i < wanted_.size(); ++i) {
    const auto place = static_cast<int64_t>(i);
    if (wanted_[i] == nullptr || PlaceOf(wanted_[i].get()) != place) continue;
    if (!PrefetchOne(wanted_[i], place, spare_pages)) break;  // none overtakes an older one's
  }
  FinishCopies();
}

void AdapterStore::PrefetchPublished() {
  std::vector<Lease> published;
  {
    absl::MutexLock lock(&mu_);
    published.swap(published_);
  }
  for (const Lease& lease : published) (void)PrefetchOne(lease, kOutOfLine, /*spare_pages=*/0);
}

// False when those that come later must wait, too.
bool AdapterStore::PrefetchOne(const Lease& lease, int64_t place, int64_t spare_pages) {
  int64_t pages = 0;
  {
    absl::MutexLock lock(&mu_);
    const Next next = NextOf(*lease);
    if (!lease->load_status.ok() || next == Next::kWait || next == Next::kDone) return true;
    if (next == Next::kRead) {
      if (load_queue_.size() >= kMaxReads) return false;
      QueueRead(lease);
    } else {
      pages = lease->image->layout().num_pages();
    }
  }
  if (pages > 0) {
    if (copies_.size() >= kMaxCopies || !FreePages(pages + spare_pages, place)) return false;
    // An error other than want of room meets whoever asks for the pin.
    if (!BeginCopy(lease, place).ok()) return false;
  }
  if (options_.observer != nullptr) options_.observer->OnAdapterPrefetch();
  return true;
}

bool AdapterStore::TryUnload(const Lease& lease) {
  FinishCopies();
  std::shared_ptr<const DeviceAdapter> device;  // freed after the lock is
  absl::MutexLock lock(&mu_);
  if (lease->pins > 0 || lease->loading || lease->copying) {
    lease->unloading = true;
    return false;
  }
  device = std::exchange(lease->device, nullptr);
  if (lease->replaceable()) DropImage(*lease);
  lease->unloading = false;
  return true;
}

void AdapterStore::CancelUnload(const Lease& lease) {
  absl::MutexLock lock(&mu_);
  lease->unloading = false;
}

bool AdapterStore::Sweep(const std::function<void(const std::string& id)>& gone) {
  FinishCopies();
  std::vector<Lease> unused;  // freed and told of after the lock is
  bool all = false;
  {
    absl::MutexLock lock(&mu_);
    for (Lease& entry : retired_) {
      if (entry.use_count() > 1) continue;
      DropImage(*entry);
      unused.push_back(std::move(entry));
    }
    std::erase(retired_, nullptr);
    all = retired_.empty();
  }
  for (const Lease& entry : unused) gone(entry->id);
  return all;
}

}  // namespace lorad
