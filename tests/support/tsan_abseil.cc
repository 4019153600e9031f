// Tells ThreadSanitizer about absl::Mutex. The packaged Abseil is not instrumented, so without this
// every access under an absl::Mutex looks like a race. Linked whole into the binaries of a build
// with -fsanitize=thread: the definitions here stand before those of libabsl_synchronization.so,
// annotate as Abseil itself does in an instrumented build, and call the real ones.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdlib>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace {

#define LORAD_TEXT_(x) #x
#define LORAD_TEXT(x) LORAD_TEXT_(x)

// The next definition of the symbol "_ZN4absl<inline namespace>" + suffix; K for const methods.
template <typename Function>
Function Next(const std::string& suffix, const char* prefix = "_ZN4absl") {
  const std::string name = LORAD_TEXT(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string symbol = prefix + std::to_string(name.size()) + name + suffix;
  void* const found = dlsym(RTLD_NEXT, symbol.c_str());
  if (found == nullptr) std::abort();
  return reinterpret_cast<Function>(found);
}

// Annotations of nested calls (a method that calls another) are left out.
thread_local int depth = 0;
class Call {
 public:
  Call() { ++depth; }
  ~Call() { --depth; }
  void PreLock(void* mu, unsigned flags = 0) const {
    if (depth == 1) __tsan_mutex_pre_lock(mu, flags);
  }
  void PostLock(void* mu, unsigned flags = 0) const {
    if (depth == 1) __tsan_mutex_post_lock(mu, flags, 0);
  }
  void PreUnlock(void* mu, unsigned flags = 0) const {
    if (depth == 1) __tsan_mutex_pre_unlock(mu, flags);
  }
  void PostUnlock(void* mu, unsigned flags = 0) const {
    if (depth == 1) __tsan_mutex_post_unlock(mu, flags);
  }
  // Around a wait: the mutex is given up and taken again.
  void PreWait(void* mu) const {
    PreUnlock(mu);
    PostUnlock(mu);
    PreLock(mu);
  }
  // What the condition loaded during the wait was not seen. When it held at once, nobody had given
  // the mutex up since, and its loads alone order what comes after.
  void PostWait(void* mu, const absl::Condition& cond) const {
    PostLock(mu);
    (void)cond.Eval();
  }
};

constexpr unsigned kRead = __tsan_mutex_read_lock;
constexpr unsigned kTry = __tsan_mutex_try_lock;
constexpr unsigned kFailed = __tsan_mutex_try_lock_failed;

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

Mutex::~Mutex() {
  static const auto real = Next<void (*)(Mutex*)>("5MutexD1Ev");
  __tsan_mutex_destroy(this, __tsan_mutex_not_static);
  real(this);
}

void Mutex::Lock() {
  static const auto real = Next<void (*)(Mutex*)>("5Mutex4LockEv");
  const Call call;
  call.PreLock(this);
  real(this);
  call.PostLock(this);
}

void Mutex::Unlock() {
  static const auto real = Next<void (*)(Mutex*)>("5Mutex6UnlockEv");
  const Call call;
  call.PreUnlock(this);
  real(this);
  call.PostUnlock(this);
}

bool Mutex::TryLock() {
  static const auto real = Next<bool (*)(Mutex*)>("5Mutex7TryLockEv");
  const Call call;
  call.PreLock(this, kTry);
  const bool locked = real(this);
  call.PostLock(this, locked ? kTry : kTry | kFailed);
  return locked;
}

void Mutex::ReaderLock() {
  static const auto real = Next<void (*)(Mutex*)>("5Mutex10ReaderLockEv");
  const Call call;
  call.PreLock(this, kRead);
  real(this);
  call.PostLock(this, kRead);
}

void Mutex::ReaderUnlock() {
  static const auto real = Next<void (*)(Mutex*)>("5Mutex12ReaderUnlockEv");
  const Call call;
  call.PreUnlock(this, kRead);
  real(this);
  call.PostUnlock(this, kRead);
}

void Mutex::Await(const Condition& cond) {
  static const auto real =
      Next<void (*)(Mutex*, const Condition&)>("5Mutex5AwaitERKNS0_9ConditionE");
  const Call call;
  call.PreWait(this);
  real(this, cond);
  call.PostWait(this, cond);
}

bool Mutex::AwaitWithTimeout(const Condition& cond, absl::Duration timeout) {
  static const auto real = Next<bool (*)(Mutex*, const Condition&, absl::Duration)>(
      "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  const Call call;
  call.PreWait(this);
  const bool held = real(this, cond, timeout);
  call.PostWait(this, cond);
  return held;
}

bool Mutex::AwaitWithDeadline(const Condition& cond, absl::Time deadline) {
  static const auto real = Next<bool (*)(Mutex*, const Condition&, absl::Time)>(
      "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  const Call call;
  call.PreWait(this);
  const bool held = real(this, cond, deadline);
  call.PostWait(this, cond);
  return held;
}

void Mutex::LockWhen(const Condition& cond) {
  static const auto real =
      Next<void (*)(Mutex*, const Condition&)>("5Mutex8LockWhenERKNS0_9ConditionE");
  const Call call;
  call.PreLock(this);
  real(this, cond);
  call.PostWait(this, cond);
}

bool Mutex::LockWhenWithTimeout(const Condition& cond, absl::Duration timeout) {
  static const auto real = Next<bool (*)(Mutex*, const Condition&, absl::Duration)>(
      "5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  const Call call;
  call.PreLock(this);
  const bool held = real(this, cond, timeout);
  call.PostWait(this, cond);
  return held;
}

bool Mutex::LockWhenWithDeadline(const Condition& cond, absl::Time deadline) {
  static const auto real = Next<bool (*)(Mutex*, const Condition&, absl::Time)>(
      "5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  const Call call;
  call.PreLock(this);
  const bool held = real(this, cond, deadline);
  call.PostWait(this, cond);
  return held;
}

void CondVar::Wait(Mutex* mu) {
  static const auto real = Next<void (*)(CondVar*, Mutex*)>("7CondVar4WaitEPNS0_5MutexE");
  const Call call;
  call.PreWait(mu);
  real(this, mu);
  call.PostLock(mu);
}

bool CondVar::WaitWithTimeout(Mutex* mu, absl::Duration timeout) {
  static const auto real = Next<bool (*)(CondVar*, Mutex*, absl::Duration)>(
      "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  const Call call;
  call.PreWait(mu);
  const bool timed_out = real(this, mu, timeout);
  call.PostLock(mu);
  return timed_out;
}

bool CondVar::WaitWithDeadline(Mutex* mu, absl::Time deadline) {
  static const auto real = Next<bool (*)(CondVar*, Mutex*, absl::Time)>(
      "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  const Call call;
  call.PreWait(mu);
  const bool timed_out = real(this, mu, deadline);
  call.PostLock(mu);
  return timed_out;
}

// The flag of a Notification is an atomic, whose store is inside the library: what was written
// before Notify() is there after a wait.
void Notification::Notify() {
  static const auto real = Next<void (*)(Notification*)>("12Notification6NotifyEv");
  __tsan_release(this);
  real(this);
}

void Notification::WaitForNotification() const {
  static const auto real =
      Next<void (*)(const Notification*)>("12Notification19WaitForNotificationEv", "_ZNK4absl");
  real(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

bool Notification::WaitForNotificationWithTimeout(absl::Duration timeout) const {
  static const auto real = Next<bool (*)(const Notification*, absl::Duration)>(
      "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE", "_ZNK4absl");
  const bool notified = real(this, timeout);
  __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}

ABSL_NAMESPACE_END
}  // namespace absl
