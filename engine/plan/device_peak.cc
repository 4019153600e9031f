#include "engine/plan/device_peak.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

struct Peak {
  const char* device;
  double flops_per_second;
};

// NVIDIA's data sheets; SXM where there are several forms, without sparsity. bf16, on v100 and t4
// fp16.
constexpr Peak kPeaks[] = {{"t4", 65e12},        {"v100", 125e12}, {"rtx-3090", 71e12},
                           {"rtx-4090", 165e12}, {"l4", 121e12},   {"l40s", 362e12},
                           {"a100", 312e12},     {"h100", 989e12}, {"h200", 989e12},
                           {"b200", 2250e12}};

}  // namespace

absl::StatusOr<double> DevicePeak(const std::string& device) {
  std::string known;
  for (const Peak& peak : kPeaks) {
    if (device == peak.device) return peak.flops_per_second;
    absl::StrAppend(&known, known.empty() ? "" : ", ", peak.device);
  }
  return absl::NotFoundError(absl::StrCat("no device \"", device, "\"; known are ", known,
                                          ", or give the rate in operations per second"));
}

}  // namespace lorad
