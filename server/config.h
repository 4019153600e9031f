// The daemon's settings: flags, and a JSON file with the same names.
#ifndef LORAD_SERVER_CONFIG_H_
#define LORAD_SERVER_CONFIG_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "server/base/log.h"

namespace lorad::server {

struct ServerConfig {
  EngineConfig engine;  // observer is not set here
  std::string state_dir;
  std::string listen = "127.0.0.1:7430";
  std::string http_listen = "127.0.0.1:7431";
  int max_queued_jobs = 64;
  absl::Duration drain_timeout = absl::Seconds(30);
  int64_t max_stream_backlog_bytes = int64_t{1} << 20;
  absl::Duration max_stream_stall = absl::Seconds(30);
  LogLevel log_level = LogLevel::kInfo;
  bool check_only = false;
};

// Reads --config=FILE, if given, then the flags; a flag on the command line wins over the file.
// Abseil ends the process with exit code 1 for a command line that it does not understand, and for
// --help. kInvalidArgument names the flag, its value and its bound.
absl::StatusOr<ServerConfig> ReadConfig(int argc, char** argv);

// Sets the flags from JSON text: an object whose keys are names of lorad's flags. An unknown key is
// an error. `where` names the text in errors.
absl::Status ApplyConfigJson(const std::string& text, absl::string_view where);

// The flags as they are now, checked.
absl::StatusOr<ServerConfig> ConfigFromFlags();

// "1073741824", "1GiB", "512MiB", "16KiB".
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

}  // namespace lorad::server

#endif  // LORAD_SERVER_CONFIG_H_
