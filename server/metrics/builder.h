// Short forms for making metrics of prometheus-cpp.
#ifndef LORAD_SERVER_METRICS_BUILDER_H_
#define LORAD_SERVER_METRICS_BUILDER_H_

#include <map>
#include <string>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace lorad::server {

using Labels = std::map<std::string, std::string>;
using Buckets = prometheus::Histogram::BucketBoundaries;

inline prometheus::Family<prometheus::Counter>& CounterFamily(prometheus::Registry& registry,
                                                              const std::string& name,
                                                              const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
inline prometheus::Family<prometheus::Gauge>& GaugeFamily(prometheus::Registry& registry,
                                                          const std::string& name,
                                                          const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
inline prometheus::Family<prometheus::Histogram>& HistogramFamily(prometheus::Registry& registry,
                                                                  const std::string& name,
                                                                  const std::string& help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

// Without labels.
inline prometheus::Counter& NewCounter(prometheus::Registry& registry, const std::string& name,
                                       const std::string& help) {
  return CounterFamily(registry, name, help).Add({});
}
inline prometheus::Gauge& NewGauge(prometheus::Registry& registry, const std::string& name,
                                   const std::string& help) {
  return GaugeFamily(registry, name, help).Add({});
}
inline prometheus::Histogram& NewHistogram(prometheus::Registry& registry, const std::string& name,
                                           const std::string& help, const Buckets& buckets) {
  return HistogramFamily(registry, name, help).Add({}, buckets);
}

// Seconds. Tokens and engine steps: from 1 ms, as vLLM's; below, the scrape is the noise.
inline const Buckets kTokenSeconds = {.001, .0025, .005, .01, .025, .05, .1, .25,
                                      .5,   1,     2.5,  5,   10,   20,  40, 80};
// Slices of training are made to be a few milliseconds at most.
inline const Buckets kSliceSeconds = {.0001, .00025, .0005, .001, .002, .003, .005,
                                      .0075, .01,    .02,   .05,  .25,  1};
inline const Buckets kCallSeconds = {.001, .0025, .005, .01, .025, .05, .1,  .25, .5,
                                     1,    2.5,   5,    10,  30,   60,  300, 600};
inline const Buckets kTransactionSeconds = {.0001, .00025, .0005, .001, .0025, .005,
                                            .01,   .025,   .05,   .1,   .5,    1};
// 1 second to 7 days.
inline const Buckets kJobSeconds = {1,    5,     15,    60,    300,    900,
                                    3600, 14400, 43200, 86400, 259200, 604800};

}  // namespace lorad::server

#endif  // LORAD_SERVER_METRICS_BUILDER_H_
