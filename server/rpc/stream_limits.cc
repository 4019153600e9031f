#include "server/rpc/stream_limits.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace lorad::server {

absl::Status BacklogExceeded(const StreamLimits& limits) {
  return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                        "the stream was cut off: more than ", limits.backlog_bytes,
                        " bytes of output waited for the reader (--max_stream_backlog); read "
                        "faster or ask for less")),
                    "SLOW_READER", {{"max_stream_backlog", absl::StrCat(limits.backlog_bytes)}});
}

absl::Status ReaderStalled(const StreamLimits& limits) {
  const std::string stall = absl::FormatDuration(limits.stall);
  return WithReason(absl::ResourceExhaustedError(
                        absl::StrCat("the stream was cut off: the reader took no message for ",
                                     stall, " (--max_stream_stall); read as the answer comes")),
                    "SLOW_READER", {{"max_stream_stall", stall}});
}

}  // namespace lorad::server
