#include "client/cli/errors.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/format.h"
#include "client/status.h"

namespace lorad::client::cli {
namespace {

// A failure that the server had no part in: it carries none of its details.
bool IsUnreachable(const absl::Status& status) {
  return absl::IsUnavailable(status) && DetailsOf(status).reason.empty();
}

std::string NotFoundHint(const ErrorDetails& details) {
  for (const char* kind : {"adapter", "dataset", "job"}) {
    if (absl::StrContains(absl::AsciiStrToLower(details.resource_type), kind)) {
      return absl::StrCat("\"loractl ", kind, " ls\" shows those that are there");
    }
  }
  return "";
}

std::string Hint(const absl::Status& status, const ErrorDetails& details) {
  if (details.retry_after) {
    return absl::StrCat("try again in ",
                        FormatSeconds(absl::ToDoubleSeconds(*details.retry_after)));
  }
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      if (!IsUnreachable(status)) return "the server is loading or shutting down; try again soon";
      return "start one (lorad --model=DIR --state_dir=DIR), or say where it is with "
             "--server=HOST:PORT or LORAD_SERVER";
    case absl::StatusCode::kNotFound:
      return NotFoundHint(details);
    case absl::StatusCode::kDeadlineExceeded:
      return "give it more time with --timeout";
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return "give a token with --token or LORAD_TOKEN";
    case absl::StatusCode::kUnimplemented:
      if (!details.reason.empty()) return "";  // the server knows what it does not support
      return "the server is of another version than this loractl; \"loractl info\" shows it";
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return "this should not happen; the server's log says more";
    default:
      return "";
  }
}

}  // namespace

ExitCode ExitCodeOf(const absl::Status& status) {
  if (IsUsageError(status)) return kUsage;
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kOk;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    case absl::StatusCode::kUnavailable:
      return kUnavailable;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return kRefused;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return kConflict;
    case absl::StatusCode::kResourceExhausted:
      return kExhausted;
    case absl::StatusCode::kDeadlineExceeded:
      return kTimeout;
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return kDenied;
    default:
      return kFailed;
  }
}

std::string DescribeError(const absl::Status& status, std::string_view server) {
  if (IsUsageError(status)) return absl::StrCat("error: ", status.message(), "\n");
  const ErrorDetails details = DetailsOf(status);
  std::string out = "error: ";
  if (IsUnreachable(status)) {
    absl::StrAppend(&out, "cannot reach lorad at ", absl::string_view(server.data(), server.size()),
                    ": ");
  }
  absl::StrAppend(&out, status.message().empty() ? absl::StatusCodeToString(status.code())
                                                 : std::string(status.message()));
  if (!details.reason.empty()) absl::StrAppend(&out, " [", details.reason, "]");
  absl::StrAppend(&out, "\n");
  for (const FieldViolation& violation : details.field_violations) {
    if (violation.description == status.message()) continue;  // said already
    absl::StrAppend(&out, "  ", violation.field, ": ", violation.description, "\n");
  }
  const std::string hint = Hint(status, details);
  if (!hint.empty()) absl::StrAppend(&out, "hint: ", hint, "\n");
  return out;
}

}  // namespace lorad::client::cli
