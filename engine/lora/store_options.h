// How an adapter store is set up, and whom it tells.
#ifndef LORAD_ENGINE_LORA_STORE_OPTIONS_H_
#define LORAD_ENGINE_LORA_STORE_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/lora/adapter.h"

namespace lorad {

// Called on the engine thread; must return at once.
class AdapterStoreObserver {
 public:
  virtual ~AdapterStoreObserver() = default;
  // source: "disk", "host" or "training"; the device copy is part of `seconds`.
  virtual void OnAdapterLoad(const char* source, const absl::Status& status, double seconds) = 0;
  virtual void OnAdapterEviction() = 0;
  // A load was begun before a request could be admitted with it.
  virtual void OnAdapterPrefetch() = 0;
};

// Gives the adapter of a directory, checked against the base model. Called from any thread, and
// more than once for a directory: it must give the same content each time.
using AdapterReader = std::function<absl::StatusOr<HostAdapter>(const std::string& dir)>;

struct AdapterStoreOptions {
  int64_t host_limit_bytes = int64_t{4} << 30;  // of host copies; the least recently used go first
  int64_t max_adapter_bytes = 0;                // of one adapter on the device; 0: any
  int32_t max_rank = 0;                         // what the workspace of serving is sized for
  int64_t warm_host_bytes = 0;  // of the host's share, locked before it is needed, again and again
  // Locking pages keeps others from the device's driver: it begins when no adapter has come to the
  // host for so long, and rests between pages.
  absl::Duration lock_after = absl::ZeroDuration(), lock_pause = absl::ZeroDuration();
  int32_t loaders = 2;                       // files read at once
  std::function<void()> wake;                // called from any thread when TryPin may get further
  AdapterStoreObserver* observer = nullptr;  // not owned; may be null
  AdapterReader read;  // in place of ReadPeftAdapter: adapters that are in no file; may be empty
};

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_STORE_OPTIONS_H_
