#include "server/base/names.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace lorad::server {
namespace {
constexpr size_t kMaxNameLength = 128;
}  // namespace

absl::Status CheckName(absl::string_view field, absl::string_view name) {
  if (name.empty()) return FieldError(field, "is required");
  if (name.size() > kMaxNameLength) {
    return FieldError(field, absl::StrCat("has ", name.size(), " characters, at most ",
                                          kMaxNameLength, " are allowed"));
  }
  const bool characters_ok = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
  if (!characters_ok || !absl::ascii_isalnum(static_cast<unsigned char>(name[0]))) {
    return FieldError(field, absl::StrCat("\"", name,
                                          "\" is not a name: use letters, digits, '.', '_' and "
                                          "'-', beginning with a letter or digit"));
  }
  return absl::OkStatus();
}

absl::Status CheckRequestId(absl::string_view field, absl::string_view request_id) {
  if (request_id.size() > kMaxNameLength) {
    return FieldError(field, absl::StrCat("has ", request_id.size(), " characters, at most ",
                                          kMaxNameLength, " are allowed"));
  }
  const bool printable = std::all_of(request_id.begin(), request_id.end(),
                                     [](unsigned char c) { return absl::ascii_isgraph(c); });
  if (!printable) return FieldError(field, "holds a character that is not printable ASCII");
  return absl::OkStatus();
}

}  // namespace lorad::server
