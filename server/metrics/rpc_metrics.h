// Rate, errors and duration of the RPCs.
#ifndef LORAD_SERVER_METRICS_RPC_METRICS_H_
#define LORAD_SERVER_METRICS_RPC_METRICS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "grpcpp/support/status_code_enum.h"
#include "server/metrics/builder.h"

namespace lorad::server {

// Thread-safe. Methods that were not named at the start (health, reflection) count as
// service="other", so that the number of series is bounded.
class RpcMetrics {
 public:
  RpcMetrics(prometheus::Registry& registry, const std::vector<std::string>& methods);

  void OnCallStarted(absl::string_view method) { Find(method).in_flight->Increment(); }
  void OnCallEnded(absl::string_view method, grpc::StatusCode code, double seconds);

 private:
  struct Method {
    std::vector<prometheus::Counter*> by_code;
    prometheus::Histogram* seconds = nullptr;
    prometheus::Gauge* in_flight = nullptr;
  };
  const Method& Find(absl::string_view method) const;

  std::map<std::string, Method, std::less<>> methods_;  // fixed after construction
  Method other_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_METRICS_RPC_METRICS_H_
