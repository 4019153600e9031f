// What the adapter registry reports to whoever measures it.
#ifndef LORAD_SERVER_ADAPTERS_ADAPTER_OBSERVER_H_
#define LORAD_SERVER_ADAPTERS_ADAPTER_OBSERVER_H_

#include "absl/status/status.h"

namespace lorad::server {

// Thread-safe. Calls return at once.
class AdapterObserver {
 public:
  virtual ~AdapterObserver() = default;
  // An alias was moved, or why not.
  virtual void OnAliasMove(const absl::Status& status) = 0;
  // The files of an adapter were checked.
  virtual void OnAdapterCheck(const absl::Status& status) = 0;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_ADAPTERS_ADAPTER_OBSERVER_H_
