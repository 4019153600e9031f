#include "server/rpc/paging.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/base/errors.h"

namespace lorad::server {
namespace {
constexpr int kDefaultPageSize = 100;
constexpr int kMaxPageSize = 1000;
}  // namespace

absl::StatusOr<int> PageSize(int32_t requested) {
  if (requested < 0) {
    return FieldError("page_size", absl::StrCat(requested, " is negative"));
  }
  if (requested == 0) return kDefaultPageSize;
  return requested < kMaxPageSize ? requested : kMaxPageSize;
}

std::string EncodePageToken(absl::string_view list, absl::string_view position) {
  if (position.empty()) return {};
  return absl::WebSafeBase64Escape(absl::StrCat(list, "\n", position));
}

absl::StatusOr<std::string> DecodePageToken(absl::string_view list, const std::string& token) {
  if (token.empty()) return std::string();
  std::string plain;
  absl::string_view rest;
  if (absl::WebSafeBase64Unescape(token, &plain)) {
    rest = plain;
    if (absl::ConsumePrefix(&rest, absl::StrCat(list, "\n")) && !rest.empty()) {
      return std::string(rest);
    }
  }
  return FieldError("page_token", "is not a next_page_token of this list with these filters");
}

}  // namespace lorad::server
