// Names that users give to datasets, adapters and aliases.
#ifndef LORAD_SERVER_BASE_NAMES_H_
#define LORAD_SERVER_BASE_NAMES_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace lorad::server {

// 1 to 128 characters of [A-Za-z0-9._-], the first alphanumeric: safe in file names, keys and URLs.
// kInvalidArgument names the field and what is wrong.
absl::Status CheckName(absl::string_view field, absl::string_view name);

// At most 128 printable ASCII characters; empty is fine.
absl::Status CheckRequestId(absl::string_view field, absl::string_view request_id);

}  // namespace lorad::server

#endif  // LORAD_SERVER_BASE_NAMES_H_
