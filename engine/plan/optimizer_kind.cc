#include "engine/plan/optimizer_kind.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace lorad {

absl::StatusOr<OptimizerKind> ParseOptimizerKind(const std::string& optim) {
  using Kind = OptimizerKind;
  constexpr std::pair<const char*, Kind> kKinds[] = {{"adamw_torch", Kind::kAdamW},
                                                     {"adamw_8bit", Kind::kAdamW8Bit},
                                                     {"paged_adamw_32bit", Kind::kPagedAdamW},
                                                     {"paged_adamw_8bit", Kind::kPagedAdamW8Bit}};
  const auto* found = std::find_if(std::begin(kKinds), std::end(kKinds),
                                   [&](const auto& known) { return known.first == optim; });
  if (found != std::end(kKinds)) return found->second;
  return absl::InvalidArgumentError(
      absl::StrCat("optim is \"", optim,
                   "\"; known are adamw_torch, adamw_8bit, paged_adamw_32bit, paged_adamw_8bit"));
}

}  // namespace lorad
