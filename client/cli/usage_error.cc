#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "client/cli/errors.h"

namespace lorad::client::cli {
namespace {

constexpr char kUsagePayload[] = "loractl/usage";

}  // namespace

absl::Status UsageError(std::string_view message) {
  absl::Status status =
      absl::InvalidArgumentError(absl::string_view(message.data(), message.size()));
  status.SetPayload(kUsagePayload, absl::Cord());
  return status;
}

bool IsUsageError(const absl::Status& status) {
  return status.GetPayload(kUsagePayload).has_value();
}

}  // namespace lorad::client::cli
