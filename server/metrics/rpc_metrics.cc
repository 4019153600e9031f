#include "server/metrics/rpc_metrics.h"

#include <utility>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace lorad::server {
namespace {

// By number.
constexpr const char* kCodes[] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

}  // namespace

RpcMetrics::RpcMetrics(prometheus::Registry& registry, const std::vector<std::string>& methods) {
  auto& requests = CounterFamily(registry, "lorad_grpc_requests_total", "Ended RPCs.");
  auto& seconds = HistogramFamily(registry, "lorad_grpc_request_duration_seconds",
                                  "Duration of RPCs; streams count until their end.");
  auto& in_flight = GaugeFamily(registry, "lorad_grpc_requests_in_flight", "RPCs in flight.");
  const auto make = [&](const std::string& service, const std::string& method) {
    Method made;
    for (const char* code : kCodes) {
      made.by_code.push_back(
          &requests.Add({{"service", service}, {"method", method}, {"code", code}}));
    }
    made.seconds = &seconds.Add({{"service", service}, {"method", method}}, kCallSeconds);
    made.in_flight = &in_flight.Add({{"service", service}, {"method", method}});
    return made;
  };
  for (const std::string& name : methods) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(absl::StripPrefix(name, "/"), '/');
    methods_[name] = make(parts.first, parts.second);
  }
  other_ = make("other", "other");
}

const RpcMetrics::Method& RpcMetrics::Find(absl::string_view method) const {
  const auto it = methods_.find(std::string(method));
  return it == methods_.end() ? other_ : it->second;
}

void RpcMetrics::OnCallEnded(absl::string_view method, grpc::StatusCode code, double seconds) {
  const Method& found = Find(method);
  const auto index = static_cast<size_t>(code);
  constexpr size_t kUnknown = 2;
  found.by_code[index < found.by_code.size() ? index : kUnknown]->Increment();
  found.seconds->Observe(seconds);
  found.in_flight->Decrement();
}

}  // namespace lorad::server
