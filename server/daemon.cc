#include "server/daemon.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"
#include "server/base/log.h"

namespace lorad::server {
namespace {

constexpr absl::Duration kHealthInterval = absl::Milliseconds(200);

// What the handler writes to: the one thing that it may do.
int signal_pipe[2];

void OnSignal(int number) {
  const int saved_errno = errno;
  const char byte = static_cast<char>(number);
  (void)!::write(signal_pipe[1], &byte, 1);
  errno = saved_errno;
}

// Takes SIGTERM and SIGINT on a thread of its own. By a handler, not by blocking them everywhere:
// libraries (OpenBLAS) have started threads before main, which would not have them blocked.
class SignalWatch {
 public:
  SignalWatch() {
    if (::pipe2(signal_pipe, O_CLOEXEC) != 0) std::abort();  // no file descriptor at all
    struct sigaction action = {};
    action.sa_handler = OnSignal;
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGTERM, &action, nullptr);
    ::sigaction(SIGINT, &action, nullptr);
    ::signal(SIGPIPE, SIG_IGN);               // a reader that is gone is an error of the write
    std::thread([this] { Run(); }).detach();  // it waits for signals until the process ends
  }

  // From here on the first signal is left to AwaitEnd; before, it ends the process at once: nothing
  // has been accepted yet.
  void SetStarted() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    started_ = true;
  }
  // True when a signal has come.
  bool AwaitEnd(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(&ending_), timeout);
  }

 private:
  void Run() {
    while (true) {
      char number = 0;
      if (::read(signal_pipe[0], &number, 1) != 1) continue;
      absl::MutexLock lock(&mu_);
      if (!started_) ::_exit(kExitOk);
      if (ending_) ::_exit(128 + number);
      ending_ = true;
    }
  }

  absl::Mutex mu_;
  bool started_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
};

int ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kResourceExhausted:
      return kExitNoResources;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
      return kExitInternal;
    default:
      return kExitRefused;
  }
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "lorad: error: %s\n", std::string(status.message()).c_str());
  return ExitCodeOf(status);
}

// With the usual soft limit of 1024, as many idle connections stop gRPC from accepting for good.
void RaiseFileLimit() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 65536);
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

int Check(const ServerConfig& config, const DaemonHooks& hooks) {
  const auto plan = hooks.plan_memory(config.engine);
  if (!plan.ok()) return Fail(plan.status());
  int64_t total = 0;
  for (int tag = 0; tag < kNumMemoryTags; ++tag) {
    if (static_cast<MemoryTag>(tag) == MemoryTag::kPinned) continue;  // the host's, planned by jobs
    absl::PrintF("%-12s %15d bytes\n", Name(static_cast<MemoryTag>(tag)), (*plan)[tag]);
    total += (*plan)[tag];
  }
  absl::PrintF("%-12s %15d bytes\n", "total", total);
  return kExitOk;
}

int Serve(const ServerConfig& config, const DaemonHooks& hooks, SignalWatch& signals) {
  absl::StatusOr<std::unique_ptr<App>> app = App::Start(config, hooks.create_engine);
  if (!app.ok()) return Fail(app.status());
  signals.SetStarted();
  std::printf("%s\n", (*app)->ReadyLine().c_str());
  std::fflush(stdout);
  while (!signals.AwaitEnd(kHealthInterval)) {
    if ((*app)->healthy()) continue;
    (*app)->MarkUnhealthy();
    Log(LogLevel::kError, "the device failed; the process ends so that it can be restarted");
    // Not Drain: nothing on the device will finish, and the jobs' checkpoints are on the disk.
    ::_exit(kExitDeviceError);
  }
  (*app)->Drain();
  return kExitOk;
}

}  // namespace

int RunDaemon(int argc, char** argv, const DaemonHooks& hooks) {
  // Never destroyed: its thread uses it until the process ends.
  SignalWatch& signals = *new SignalWatch;
  const absl::StatusOr<ServerConfig> config = ReadConfig(argc, argv);
  if (!config.ok()) return Fail(config.status());
  SetLogLevel(config->log_level);
  if (config->check_only) return Check(*config, hooks);
  RaiseFileLimit();
  return Serve(*config, hooks, signals);
}

}  // namespace lorad::server
