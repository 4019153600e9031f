#include "engine/plan/activation_checkpointing.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/core/check.h"
#include "engine/core/checked_math.h"

namespace lorad {

LayerSegments::LayerSegments(int64_t num_layers, const ActivationCheckpointing& checkpointing)
    : num_layers_(num_layers), length_(checkpointing.layers_per_segment) {
  LORAD_CHECK(length_ >= 1 && checkpointing.kept_layers >= 0 &&
              checkpointing.kept_layers <= num_layers);
  last_begin_ = checkpointing.kept_layers > 0 ? num_layers - checkpointing.kept_layers
                                              : (num_layers - 1) / length_ * length_;
}

int64_t LayerSegments::count() const { return CeilDiv(last_begin_, length_) + 1; }

int64_t LayerSegments::Index(int64_t layer) const {
  return layer >= last_begin_ ? count() - 1 : layer / length_;
}

int64_t LayerSegments::Begin(int64_t layer) const {
  return layer >= last_begin_ ? last_begin_ : layer / length_ * length_;
}

int64_t LayerSegments::End(int64_t layer) const {
  return layer >= last_begin_ ? num_layers_ : std::min(Begin(layer) + length_, last_begin_);
}

int64_t LayerSegments::longest() const {
  return std::max(num_layers_ - last_begin_, std::min(length_, last_begin_));
}

absl::StatusOr<ActivationPolicy> ParseActivationPolicy(const std::string& policy,
                                                       int64_t num_layers) {
  if (policy == "none")
    return ActivationPolicy{{.layers_per_segment = num_layers, .keeps_act = true}};
  if (policy == "every_layer") return ActivationPolicy{};
  if (policy == "sqrt") {
    const double root = std::ceil(std::sqrt(static_cast<double>(num_layers)));
    return ActivationPolicy{{.layers_per_segment = static_cast<int64_t>(root)}};
  }
  if (policy == "offload") return ActivationPolicy{{.offload = true}};
  if (policy == "auto") return ActivationPolicy{.checkpointing = {}, .fits_to_memory = true};
  absl::string_view count = policy;
  int64_t layers = 0;
  if (absl::ConsumePrefix(&count, "every_k:") && absl::SimpleAtoi(count, &layers) && layers >= 1)
    return ActivationPolicy{{.layers_per_segment = std::min(layers, num_layers)}};
  return absl::InvalidArgumentError(
      absl::StrCat("activation_checkpointing is \"", policy,
                   "\"; known are none, every_layer, every_k:K with K >= 1, sqrt, offload, auto"));
}

std::string Describe(const ActivationCheckpointing& checkpointing, int64_t num_layers) {
  const LayerSegments segments(num_layers, checkpointing);
  const int64_t kept = num_layers - segments.Begin(num_layers - 1);
  std::string text = kept == num_layers
                         ? absl::StrCat("all ", num_layers, " layers kept",
                                        checkpointing.keeps_act ? "" : " but silu(gate) * up")
                         : absl::StrCat(kept, " of ", num_layers,
                                        " layers kept, the rest computed again in segments of ",
                                        checkpointing.layers_per_segment);
  if (checkpointing.offload) absl::StrAppend(&text, "; inputs in host memory");
  return text;
}

}  // namespace lorad
