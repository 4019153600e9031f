// What a device's memory allows: the bound of decoding.
#ifndef LORAD_TESTS_BENCH_BANDWIDTH_H_
#define LORAD_TESTS_BENCH_BANDWIDTH_H_

#include "absl/status/statusor.h"
#include "engine/device/backend.h"

namespace lorad::bench {

// Bytes per second. On a GPU the best of several copies within its memory, each byte counted twice,
// once read and once written; on the CPU what all cores read of a set that no cache holds.
// kResourceExhausted: no room for the two blocks of a copy.
absl::StatusOr<double> MeasureBandwidth(Backend& backend);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BANDWIDTH_H_
