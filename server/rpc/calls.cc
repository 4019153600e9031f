#include "server/rpc/calls.h"

#include <utility>

namespace lorad::server {
namespace {

constexpr absl::Duration kRetryDelay = absl::Seconds(1);

}  // namespace

absl::Status PoolOverloaded() {
  return WithReason(
      WithRetry(absl::ResourceExhaustedError("too many calls wait for a thread; try again later"),
                kRetryDelay),
      "SERVER_OVERLOADED", {});
}

absl::Status AtQueue(absl::Status status) {
  if (!absl::IsResourceExhausted(status)) return status;
  return WithReason(WithRetry(std::move(status), kRetryDelay), "QUEUE_FULL", {});
}

}  // namespace lorad::server
