#include "server/rpc/services.h"

#include "server/base/errors.h"

namespace lorad::server {

absl::Status CheckNotDraining(const Services& services) {
  if (!services.draining->load()) return absl::OkStatus();
  return WithReason(WithRetry(absl::UnavailableError("the server is shutting down; try again when "
                                                     "it has restarted"),
                              absl::Seconds(5)),
                    "DRAINING", {});
}

}  // namespace lorad::server
