// Ctrl-C for commands that must say something before they end.
#ifndef LORAD_CLIENT_CLI_INTERRUPT_H_
#define LORAD_CLIENT_CLI_INTERRUPT_H_

#include <atomic>
#include <functional>
#include <thread>

namespace lorad::client::cli {

// While it lives, the first SIGINT or SIGTERM calls `on_interrupt` on a thread of its own; the
// second ends the process with code 130. Make it before any other thread is started (they inherit
// the blocked signals), one at a time.
class InterruptGuard {
 public:
  explicit InterruptGuard(std::function<void()> on_interrupt);
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const { return interrupted_; }

 private:
  void Wait();

  std::function<void()> on_interrupt_;
  std::atomic<bool> interrupted_ = false;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_INTERRUPT_H_
