#include "server/rpc/calls.h"

namespace lorad::server {

absl::Status PoolOverloaded() {
  return WithReason(
      WithRetry(absl::ResourceExhaustedError("too many calls wait for a thread; try again later"),
                absl::Seconds(1)),
      "SERVER_OVERLOADED", {});
}

}  // namespace lorad::server
