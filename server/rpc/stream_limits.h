// When the reader of a stream is too slow.
#ifndef LORAD_SERVER_RPC_STREAM_LIMITS_H_
#define LORAD_SERVER_RPC_STREAM_LIMITS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace lorad::server {

struct StreamLimits {
  int64_t backlog_bytes;  // more than this may not wait for it
  absl::Duration stall;   // it takes the message that is being written within this time
};

// kResourceExhausted, reason SLOW_READER, naming the limit that was passed.
absl::Status BacklogExceeded(const StreamLimits& limits);
absl::Status ReaderStalled(const StreamLimits& limits);

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_STREAM_LIMITS_H_
