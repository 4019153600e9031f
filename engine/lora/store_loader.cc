// The threads that read adapters' files.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "engine/lora/store.h"
#include "engine/lora/store_entry.h"

namespace lorad {

void AdapterStore::StopLoading() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  for (std::thread& loader : loaders_) {
    if (loader.joinable()) loader.join();
  }
}

absl::StatusOr<AdapterStore::Image> AdapterStore::ReadImage(const std::string& dir,
                                                            const std::string& id) const {
  ASSIGN_OR_RETURN(const HostAdapter adapter, Read(dir));
  const std::vector<AdapterModuleView> modules = Views(adapter);
  if (AdapterDigest(modules) != id) {
    return absl::DataLossError(
        absl::StrCat("the files in ", dir, " are no longer adapter ", id, "; import it again"));
  }
  return MakeImage(id, modules);
}

void AdapterStore::QueueRead(const Lease& lease) {
  lease->loading = true;
  load_queue_.push_back(lease);
}

void AdapterStore::KeepQuiet(absl::Duration time) {
  quiet_until_ = std::max(quiet_until_, absl::Now() + time);
}

// False: there is something to read before.
bool AdapterStore::WaitForQuiet() {
  while (!HasReads() && absl::Now() < quiet_until_)
    mu_.AwaitWithDeadline(absl::Condition(this, &AdapterStore::HasReads), quiet_until_);
  return !HasReads();
}

void AdapterStore::LoadLoop() {
  while (true) {
    Lease entry;
    std::string dir;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(this, &AdapterStore::LoaderHasWork));
      if (WaitForQuiet()) {
        KeepQuiet(options_.lock_pause);  // the others, too
      } else if (stopping_) {
        return;
      } else {
        entry = std::move(load_queue_.front());
        load_queue_.erase(load_queue_.begin());
        dir = entry->dir;
      }
    }
    if (entry == nullptr) {  // the next publication shall not wait for the driver to lock pages
      pinned_.Add(options_.warm_host_bytes);
      continue;
    }
    const absl::Time began = absl::Now();
    absl::StatusOr<Image> image = ReadImage(dir, entry->id);
    {
      absl::MutexLock lock(&mu_);
      entry->loading = false;
      // An error that nobody waits for any more (the map and this thread hold it) is nobody's.
      entry->load_status = entry.use_count() > 2 ? image.status() : absl::OkStatus();
      entry->source = "disk";
      entry->source_seconds = absl::ToDoubleSeconds(absl::Now() - began);
      if (image.ok()) SetImage(*entry, *std::move(image));
      TrimHost();
    }
    entry.reset();
    options_.wake();
  }
}

}  // namespace lorad
