// The daemon's log: one line per record on stderr, "time level thread message". Thread-safe.
#ifndef LORAD_SERVER_BASE_LOG_H_
#define LORAD_SERVER_BASE_LOG_H_

#include "absl/strings/string_view.h"

namespace lorad::server {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Records below `level` are dropped. Default kInfo.
void SetLogLevel(LogLevel level);

// Line breaks and other control characters in `message` are escaped: a record stays one line,
// whatever a request put into it.
void Log(LogLevel level, absl::string_view message);

}  // namespace lorad::server

#endif  // LORAD_SERVER_BASE_LOG_H_
