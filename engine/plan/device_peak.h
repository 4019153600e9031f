// What devices can compute at most.
#ifndef LORAD_ENGINE_PLAN_DEVICE_PEAK_H_
#define LORAD_ENGINE_PLAN_DEVICE_PEAK_H_

#include <string>

#include "absl/status/statusor.h"

namespace lorad {

// Dense 16-bit matrix products with sums in fp32 of one card, in operations per second, as its data
// sheet has it; real products reach 60 to 80 % of it. `device` is "h100", "a100", ... kNotFound
// lists the known ones.
absl::StatusOr<double> DevicePeak(const std::string& device);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_DEVICE_PEAK_H_
