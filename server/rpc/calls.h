// What the services share: unary calls that may block, streams that are read and written on the
// thread pool, and so never block gRPC's own threads.
#ifndef LORAD_SERVER_RPC_CALLS_H_
#define LORAD_SERVER_RPC_CALLS_H_

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/grpcpp.h"
#include "server/base/errors.h"
#include "server/base/thread_pool.h"

namespace lorad::server {

// kResourceExhausted with RetryInfo: the pool's queue is full.
absl::Status PoolOverloaded();
// What the engine says of a full queue, with RetryInfo and the reason QUEUE_FULL; other statuses
// unchanged.
absl::Status AtQueue(absl::Status status);

// Runs `work`, which returns absl::Status and fills the response, on the pool.
template <typename Work>
grpc::ServerUnaryReactor* RunUnary(grpc::CallbackServerContext* context, ThreadPool* pool,
                                   Work work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool scheduled =
      pool->TrySchedule([reactor, work = std::move(work)] { reactor->Finish(ToGrpc(work())); });
  if (!scheduled) reactor->Finish(ToGrpc(PoolOverloaded()));
  return reactor;
}

// A client stream. Deletes itself when done.
template <typename Request>
class ReadCall : public grpc::ServerReadReactor<Request> {
 public:
  explicit ReadCall(ThreadPool* pool) : pool_(pool) {}
  // Call once, after construction.
  void Start() { this->StartRead(&request_); }

 protected:
  // The next message. False: no more are wanted, the answer is complete. On the pool.
  virtual absl::StatusOr<bool> OnMessage(const Request& request) = 0;
  // The client has sent everything; fills the response. On the pool.
  virtual absl::Status OnEnd() = 0;

 private:
  void OnReadDone(bool ok) override {
    pool_->Schedule([this, ok] { Step(ok); });
  }
  void OnDone() override { delete this; }
  void Step(bool have_message) {
    if (!have_message) return this->Finish(ToGrpc(OnEnd()));
    const absl::StatusOr<bool> more = OnMessage(request_);
    if (!more.ok() || !*more) return this->Finish(ToGrpc(more.status()));
    this->StartRead(&request_);
  }

  ThreadPool* const pool_;
  Request request_;
};

// A server stream whose messages are asked for, one when the last is gone: a slow reader holds one
// message and no more. Held by itself until done.
template <typename Response>
class PullCall : public grpc::ServerWriteReactor<Response>,
                 public std::enable_shared_from_this<PullCall<Response>> {
 public:
  explicit PullCall(ThreadPool* pool) : pool_(pool) {}
  // Call once, with the object in a shared_ptr.
  void Start() {
    self_ = this->shared_from_this();
    Schedule();
  }
  // There may be something new for Produce. Thread-safe.
  void Wake() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (waiting_) Schedule();
    woken_ = !waiting_;
    waiting_ = false;
  }

 protected:
  enum class Next { kMessage, kWait, kEnd };
  // Fills the next message; kWait: not before Wake. On the pool, one call at a time.
  virtual absl::StatusOr<Next> Produce(Response& response) = 0;
  // The call is over: ends what calls Wake. On the pool.
  virtual void Close() {}

 private:
  void OnWriteDone(bool ok) override {
    if (!ok) SetCancelled();
    Schedule();
  }
  void OnCancel() override {
    SetCancelled();
    Wake();
  }
  void OnDone() override {
    pool_->Schedule([self = std::move(self_)] { self->Close(); });
  }
  void SetCancelled() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    cancelled_ = true;
  }
  void Schedule() {
    pool_->Schedule([self = this->shared_from_this()] { self->Step(); });
  }
  void Step() ABSL_LOCKS_EXCLUDED(mu_) {
    {
      absl::MutexLock lock(&mu_);
      if (finished_) return;
      finished_ = cancelled_;
    }
    if (finished_) return this->Finish(grpc::Status::CANCELLED);
    response_.Clear();
    const absl::StatusOr<Next> next = Produce(response_);
    if (next.ok() && *next == Next::kMessage) return this->StartWrite(&response_);
    if (next.ok() && *next == Next::kWait) return Wait();
    finished_ = true;
    this->Finish(ToGrpc(next.status()));
  }
  void Wait() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (woken_ || cancelled_) {
      Schedule();
    } else {
      waiting_ = true;
    }
    woken_ = false;
  }

  ThreadPool* const pool_;
  std::shared_ptr<PullCall> self_;
  Response response_;      // between StartWrite and OnWriteDone it is gRPC's
  bool finished_ = false;  // only in Step, which runs one at a time
  absl::Mutex mu_;
  bool waiting_ ABSL_GUARDED_BY(mu_) = false;
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
};

// A server stream that fails at once.
template <typename Response>
class FailedWriteCall : public grpc::ServerWriteReactor<Response> {
 public:
  explicit FailedWriteCall(const absl::Status& status) { this->Finish(ToGrpc(status)); }

 private:
  void OnDone() override { delete this; }
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_CALLS_H_
