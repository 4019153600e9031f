// The daemon's life as a process: settings, signals, exit codes.
#ifndef LORAD_SERVER_DAEMON_H_
#define LORAD_SERVER_DAEMON_H_

#include <array>
#include <functional>

#include "absl/status/statusor.h"
#include "server/app.h"

namespace lorad::server {

struct DaemonHooks {
  EngineFactory create_engine;
  std::function<absl::StatusOr<std::array<int64_t, kNumMemoryTags>>(const EngineConfig&)>
      plan_memory;
};

// Exit codes; 1 is Abseil's for a command line that it does not understand.
inline constexpr int kExitOk = 0;            // ended by SIGTERM or SIGINT, or --check is content
inline constexpr int kExitRefused = 2;       // a setting, the model or the state is not usable
inline constexpr int kExitNoResources = 3;   // memory, disk
inline constexpr int kExitInternal = 70;     // our bug
inline constexpr int kExitDeviceError = 71;  // the device needs a new process: restart
// A second signal while draining: 128 + the signal's number.

// All of main. The first SIGTERM or SIGINT drains, the second ends the process at once.
int RunDaemon(int argc, char** argv, const DaemonHooks& hooks);

}  // namespace lorad::server

#endif  // LORAD_SERVER_DAEMON_H_
