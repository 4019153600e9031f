#include "engine/train/activation_checkpointing.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace lorad {

absl::StatusOr<int64_t> LayersPerSegment(const std::string& policy, int64_t num_layers) {
  if (policy == "none") return num_layers;
  if (policy == "every_layer") return 1;
  if (policy == "sqrt")
    return static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(num_layers))));
  absl::string_view count = policy;
  int64_t layers = 0;
  if (absl::ConsumePrefix(&count, "every_k:") && absl::SimpleAtoi(count, &layers) && layers >= 1)
    return std::min(layers, num_layers);
  return absl::InvalidArgumentError(
      absl::StrCat("activation_checkpointing is \"", policy,
                   "\"; known are none, every_layer, every_k:K with K >= 1, sqrt"));
}

}  // namespace lorad
