// The functions of PushCall. Included by push_call.h alone.
#ifndef LORAD_SERVER_RPC_PUSH_CALL_INL_H_
#define LORAD_SERVER_RPC_PUSH_CALL_INL_H_

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "server/rpc/push_call.h"

namespace lorad::server {

template <typename Response>
void PushCall<Response>::Push(Response response) {
  bool cut = false;
  {
    absl::MutexLock lock(&mu_);
    if (end_.has_value()) return;
    Enqueue(std::move(response));
    cut = waiting_bytes_ > limits_.backlog_bytes;
    if (cut) Cut(BacklogExceeded(limits_));
    Post();
    WatchWrite();
  }
  if (cut) OnStop();
}

template <typename Response>
void PushCall<Response>::End(const absl::Status& status) {
  absl::MutexLock lock(&mu_);
  if (!end_.has_value()) end_ = status;
  Post();
  WatchWrite();
}

template <typename Response>
void PushCall<Response>::Post() {
  if (writing_ || posted_ || finished_) return;
  posted_ = true;
  writers_.Schedule([self = this->shared_from_this()] {
    absl::MutexLock lock(&self->mu_);
    self->posted_ = false;
    self->Advance();
    self->WatchWrite();
  });
}

template <typename Response>
void PushCall<Response>::Enqueue(Response response) {
  const int64_t bytes = BytesOf(response);
  const size_t reach = std::min(waiting_.size(), kMergeReach);
  for (size_t back = 1; back <= reach; ++back) {
    Response& earlier = waiting_[waiting_.size() - back];
    if (!SameAnswer(earlier, response)) continue;
    const int64_t before = BytesOf(earlier);
    if (before + bytes > kMergeBytes) break;
    Append(earlier, std::move(response));
    waiting_bytes_ += BytesOf(earlier) - before;
    return;
  }
  waiting_bytes_ += bytes;
  waiting_.push_back(std::move(response));
}

template <typename Response>
void PushCall<Response>::Cut(const absl::Status& status) {
  cut_ = true;
  watched_since_ = absl::Now();  // the reader has the stall time again to come to the status
  end_ = status;
  waiting_.clear();
  waiting_bytes_ = 0;
}

template <typename Response>
void PushCall<Response>::Advance() {
  if (writing_ || finished_) return;
  if (!waiting_.empty()) {
    current_ = std::move(waiting_.front());
    waiting_.pop_front();
    waiting_bytes_ -= BytesOf(current_);
    writing_ = true;
    watched_since_ = absl::Now();
    this->StartWrite(&current_);
  } else if (end_.has_value()) {
    finished_ = true;
    this->Finish(ToGrpc(*end_));
  }
}

template <typename Response>
void PushCall<Response>::WatchWrite() {
  // A write that ends at once costs no alarm: it is set when something waits for the write.
  if (watched_ || !writing_ || (waiting_.empty() && !end_.has_value())) return;
  watched_ = true;
  alarm_.Set(watched_since_ + limits_.stall, [weak = this->weak_from_this()] {
    if (const auto call = weak.lock()) call->CheckWrite();
  });
}

template <typename Response>
void PushCall<Response>::CheckWrite() {
  bool stop = false;
  {
    absl::MutexLock lock(&mu_);
    watched_ = false;
    if (writing_ && absl::Now() >= watched_since_ + limits_.stall) {
      if (cut_) return context_->TryCancel();  // the write fails, and ends the call
      Cut(ReaderStalled(limits_));
      stop = true;
    }
    WatchWrite();
  }
  if (stop) OnStop();
}

template <typename Response>
void PushCall<Response>::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (!ok) Cut(end_.value_or(absl::CancelledError("the reader has gone")));
    Advance();
    WatchWrite();
  }
  ok ? OnWritten() : OnStop();
}

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_PUSH_CALL_INL_H_
