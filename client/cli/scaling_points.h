// The points of a scaling study in a file: CSV with a header, or one JSON object a line.
#ifndef LORAD_CLIENT_CLI_SCALING_POINTS_H_
#define LORAD_CLIENT_CLI_SCALING_POINTS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "lorad/v1/planner_scaling.pb.h"

namespace lorad::client::cli {

// Columns or keys, in any case: parameters (or params, n), tokens (d), compute_flops (compute,
// flops, c), loss (l); others are ignored. An empty cell, a null or an absent key is not known.
// Lines that are blank or begin with "#" are skipped. `path` ends in .csv or .jsonl; the family
// gets the file's name without it. Errors name file and line.
absl::StatusOr<v1::ScalingFamily> ReadScalingFamily(const std::string& path);

// "N=7e9,D=1.4e11" with the names above but loss. kInvalidArgument names the part.
absl::StatusOr<v1::ScalingPoint> ParseScalingPoint(std::string_view text);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_SCALING_POINTS_H_
