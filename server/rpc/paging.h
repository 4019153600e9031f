// page_size and page_token of the List methods.
#ifndef LORAD_SERVER_RPC_PAGING_H_
#define LORAD_SERVER_RPC_PAGING_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lorad::server {

// 0: 100; more than 1000: 1000; kInvalidArgument when negative.
absl::StatusOr<int> PageSize(int32_t requested);

// A token holds where the next page begins, and is good for one list only: `list` names it with its
// filters. kInvalidArgument for a token of another list, or none of ours.
std::string EncodePageToken(absl::string_view list, absl::string_view position);
absl::StatusOr<std::string> DecodePageToken(absl::string_view list, const std::string& token);

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_PAGING_H_
