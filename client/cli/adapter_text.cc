#include "client/cli/adapter_text.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/format.h"
#include "client/cli/job_text.h"
#include "client/cli/table.h"

namespace lorad::client::cli {

std::string TierName(v1::AdapterTier tier) {
  return absl::AsciiStrToLower(v1::AdapterTier_Name(tier).substr(sizeof("ADAPTER_TIER_") - 1));
}

std::string AdapterText(const v1::Adapter& adapter) {
  return KeyValues({
      {"adapter", adapter.ref()},
      {"sha256", adapter.sha256()},
      {"aliases", absl::StrJoin(adapter.aliases(), ", ")},
      {"r", absl::StrCat(adapter.r())},
      {"lora_alpha", FormatSignificant(adapter.lora_alpha())},
      {"use_rslora", adapter.use_rslora() ? "true" : "false"},
      {"target_modules", absl::StrJoin(adapter.target_modules(), ", ")},
      {"parameters", absl::StrCat(FormatCount(adapter.parameters()), " in ",
                                  adapter.adapted_modules(), " modules")},
      {"size", FormatBytes(adapter.size_bytes())},
      {"base model", adapter.base_model_digest()},
      {"made by", adapter.job_id().empty() ? "import" : adapter.job_id()},
      {"created", TimeText(adapter.create_time())},
      {"tier", TierName(adapter.tier())},
      {"running requests", absl::StrCat(adapter.running_requests())},
      {"device bytes", FormatBytes(adapter.device_bytes())},
  });
}

}  // namespace lorad::client::cli
