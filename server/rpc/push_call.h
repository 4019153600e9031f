// A server stream of messages that are made elsewhere, for a reader of unknown speed.
#ifndef LORAD_SERVER_RPC_PUSH_CALL_H_
#define LORAD_SERVER_RPC_PUSH_CALL_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "server/base/errors.h"
#include "server/base/thread_pool.h"
#include "server/rpc/alarm.h"
#include "server/rpc/stream_limits.h"

namespace lorad::server {

// One message is being written, the others wait here and are merged into few. A reader that passes
// a limit is cut off: what waits is dropped and the stream ends with the limit's status. That
// status travels behind the message that the reader does not take; if it takes none for the stall
// time again, the call is cancelled, so that nothing is held for ever. Thread-safe. Held by itself
// until gRPC is done with it. Virtual functions are called without a lock unless they say
// otherwise.
template <typename Response>
class PushCall : public grpc::ServerWriteReactor<Response>,
                 public std::enable_shared_from_this<PushCall<Response>> {
 public:
  // `context` is the call's own. `writers` is not owned: Push() and End() leave what costs a system
  // call to it, for they are called on the engine thread.
  PushCall(grpc::CallbackServerContext* context, ThreadPool& writers, const StreamLimits& limits)
      : context_(context), writers_(writers), limits_(limits) {}

 protected:
  // Call once, before anything else, with the object in a shared_ptr.
  void Hold() { self_ = this->shared_from_this(); }
  // Sends a message. Without effect after the end, or when the reader was cut off.
  void Push(Response response) ABSL_LOCKS_EXCLUDED(mu_);
  // Ends the stream with `status` when what waits is written. Only the first call has an effect.
  void End(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);
  int64_t waiting_bytes() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return waiting_bytes_;
  }

  // No more messages are wanted: the caller has cancelled, is gone, or was cut off. May come more
  // than once. After a cancellation the stream waits for End().
  virtual void OnStop() = 0;
  // A message was written, so less may wait.
  virtual void OnWritten() {}
  // Size in memory, about; called under a lock, as the next two are.
  virtual int64_t BytesOf(const Response& response) const = 0;
  // Whether two messages can become one; those of one answer keep their order.
  virtual bool SameAnswer(const Response& a, const Response& b) const = 0;
  virtual void Append(Response& last, Response more) const = 0;

 private:
  // What waits is merged up to about this size, looking back at most so many messages.
  static constexpr int64_t kMergeBytes = 16 << 10;
  static constexpr size_t kMergeReach = 16;

  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mu_);
  void OnCancel() override { OnStop(); }
  void OnDone() override { const auto self = std::move(self_); }

  void Enqueue(Response response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Has a writer call Advance() soon, unless a write is under way, which will.
  void Post() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Cut(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Starts the next write, or the end, when neither is under way.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Sees to it that a write that is under way is looked at when its time is over.
  void WatchWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CheckWrite() ABSL_LOCKS_EXCLUDED(mu_);

  grpc::CallbackServerContext* const context_;  // gRPC's, until OnDone
  ThreadPool& writers_;
  const StreamLimits limits_;
  std::shared_ptr<PushCall> self_;

  mutable absl::Mutex mu_;
  std::deque<Response> waiting_ ABSL_GUARDED_BY(mu_);
  int64_t waiting_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  Response current_ ABSL_GUARDED_BY(mu_);  // while writing_, gRPC's
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool posted_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time watched_since_ ABSL_GUARDED_BY(mu_);  // start of the write, or of its second chance
  Alarm alarm_ ABSL_GUARDED_BY(mu_);
  bool watched_ ABSL_GUARDED_BY(mu_) = false;  // the alarm is set
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  bool cut_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace lorad::server

#include "server/rpc/push_call-inl.h"

#endif  // LORAD_SERVER_RPC_PUSH_CALL_H_
