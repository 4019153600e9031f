#include "client/cli/format.h"

#include <array>
#include <cmath>

#include "absl/strings/str_format.h"

namespace lorad::client::cli {

std::string FormatBytes(int64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return absl::StrFormat("%d B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string FormatCount(int64_t count) {
  const double value = static_cast<double>(count);
  if (count < 10'000) return absl::StrFormat("%d", count);
  if (value < 999'950) return absl::StrFormat("%.1fk", value / 1e3);
  if (value < 999'950'000) return absl::StrFormat("%.2fM", value / 1e6);
  return absl::StrFormat("%.1fB", value / 1e9);
}

std::string FormatSeconds(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 9.95) return absl::StrFormat("%.1f s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 60) return absl::StrFormat("%d s", whole);
  if (whole < 3600) return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
  return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string FormatSignificant(double value) { return absl::StrFormat("%.4g", value); }

}  // namespace lorad::client::cli
