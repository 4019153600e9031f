// What the store keeps of one adapter. Internal to engine/lora.
#ifndef LORAD_ENGINE_LORA_STORE_ENTRY_H_
#define LORAD_ENGINE_LORA_STORE_ENTRY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/lora/adapter.h"
#include "engine/lora/adapter_image.h"
#include "engine/lora/store.h"

namespace lorad {

// Guarded by the store's mutex; `device` and `copying` are changed by the engine thread alone.
struct AdapterStore::Entry {
  std::string id;          // never changes
  AdapterSummary summary;  // never changes
  std::string dir;         // empty: published, its files are still being written
  std::shared_ptr<const AdapterImage> image;
  std::shared_ptr<const DeviceAdapter> device;
  absl::Status load_status;     // of the last load, until somebody has been told
  const char* source = "host";  // of `image`, until it is on the device
  double source_seconds = 0;    // that it took to get `image` from there
  bool loading = false;         // in a loader's hands
  bool copying = false;         // on its way to the device
  bool unloading = false;
  bool retired = false;  // unregistered: the files may be gone, so the host copy stays
  int32_t pins = 0;
  uint64_t last_use = 0;

  // The host copy can be had again.
  bool replaceable() const { return !retired && !dir.empty(); }
};

// Both the pages and the image must stay until the copy is done.
struct AdapterStore::Copying {
  Lease lease;
  std::shared_ptr<const AdapterImage> image;
  std::shared_ptr<const DeviceAdapter> device;
  std::unique_ptr<Event> done;
  absl::Time began;
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

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_STORE_ENTRY_H_
