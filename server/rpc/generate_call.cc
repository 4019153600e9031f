#include "server/rpc/generate_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/calls.h"
#include "server/rpc/generate_request.h"

namespace lorad::server {
namespace {

// What waits is merged up to about this size.
constexpr int64_t kMergeBytes = 16 << 10;

v1::TokenLogprob LogprobToProto(const TokenLogprob& logprob) {
  v1::TokenLogprob proto;
  proto.set_id(logprob.id);
  proto.set_logprob(logprob.logprob);
  for (const auto& [id, value] : logprob.top) {
    v1::TokenLogprob* top = proto.add_top();
    top->set_id(id);
    top->set_logprob(value);
  }
  return proto;
}

int64_t ApproximateBytes(const v1::GenerateResponse& response) {
  int64_t bytes = 64 + response.text().size() + 4 * response.ids_size();
  for (const v1::TokenLogprob& logprob : response.logprobs()) bytes += 16 + 16 * logprob.top_size();
  return bytes;
}

absl::Status StatusOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
    case FinishReason::kLength:
      return absl::OkStatus();
    case FinishReason::kCancelled:
      return absl::CancelledError("the request was cancelled");
    case FinishReason::kDeadline:
      return absl::DeadlineExceededError("the deadline passed before the answer was complete");
    case FinishReason::kError:
      return absl::InternalError("the engine could not finish the request");
  }
  return absl::InternalError("unknown finish reason");
}

}  // namespace

void GenerateCall::Start() {
  self_ = shared_from_this();
  const bool scheduled = services_->pool->TrySchedule([call = shared_from_this()] {
    const absl::Status status = call->Submit();
    if (!status.ok()) call->OnError(status);
  });
  if (!scheduled) OnError(PoolOverloaded());
}

absl::Status GenerateCall::Submit() {
  RETURN_IF_ERROR(CheckNotDraining(*services_));
  ASSIGN_OR_RETURN(GenerateRequest request, ToEngine(*request_, *services_->engine));
  ASSIGN_OR_RETURN(ResolvedAdapter adapter, services_->adapters->Resolve(request_->adapter()));
  adapter_ref_ = std::move(adapter.ref);
  request.adapter_id = std::move(adapter.id);
  ASSIGN_OR_RETURN(const RequestId id,
                   services_->engine->Generate(std::move(request), deadline_, shared_from_this()));
  absl::MutexLock lock(&mu_);
  id_ = id;
  if (cancel_) services_->engine->Cancel(id);
  return absl::OkStatus();
}

void GenerateCall::CancelRequest() {
  if (!cancel_ && id_.has_value()) {
    // Not from here: this may be the engine's thread, inside the engine.
    services_->pool->Schedule([engine = services_->engine, id = *id_] { engine->Cancel(id); });
  }
  cancel_ = true;
}

void GenerateCall::OnDelta(GenerateDelta delta) {
  v1::GenerateResponse response;
  response.set_adapter(adapter_ref_);
  response.set_text(std::move(delta.text));
  response.mutable_ids()->Assign(delta.ids.begin(), delta.ids.end());
  for (const TokenLogprob& logprob : delta.logprobs) {
    *response.add_logprobs() = LogprobToProto(logprob);
  }
  absl::MutexLock lock(&mu_);
  if (end_.has_value()) return;
  Append(std::move(response));
  const int64_t limit = services_->facts->max_stream_backlog_bytes;
  if (waiting_bytes_ > limit) {
    CancelRequest();
    End(WithReason(absl::ResourceExhaustedError(absl::StrCat(
                       "the stream was cut off: more than ", limit,
                       " bytes of output waited for the reader; read faster or ask for less")),
                   "SLOW_READER", {}),
        /*drop=*/true);
  }
  Advance();
}

void GenerateCall::Append(v1::GenerateResponse response) {
  const int64_t bytes = ApproximateBytes(response);
  if (!waiting_.empty() && ApproximateBytes(waiting_.back()) + bytes <= kMergeBytes) {
    v1::GenerateResponse& last = waiting_.back();
    waiting_bytes_ -= ApproximateBytes(last);
    last.mutable_text()->append(response.text());
    last.mutable_ids()->MergeFrom(response.ids());
    last.mutable_logprobs()->MergeFrom(response.logprobs());
    waiting_bytes_ += ApproximateBytes(last);
    return;
  }
  waiting_bytes_ += bytes;
  waiting_.push_back(std::move(response));
}

void GenerateCall::OnFinish(const GenerateResult& result) {
  absl::Status status = StatusOf(result.finish_reason);
  absl::MutexLock lock(&mu_);
  if (end_.has_value()) return;
  if (result.finish_reason == FinishReason::kCancelled && !cancel_) {
    // Not the caller's doing: the drain ran out of time. It may ask the next server.
    if (absl::Status draining = CheckNotDraining(*services_); !draining.ok()) status = draining;
  }
  if (status.ok()) {
    v1::GenerateResponse response;
    response.set_adapter(adapter_ref_);
    v1::GenerateFinish& finish = *response.mutable_finish();
    finish.set_finish_reason(result.finish_reason == FinishReason::kStop
                                 ? v1::FINISH_REASON_STOP
                                 : v1::FINISH_REASON_LENGTH);
    v1::Usage& usage = *finish.mutable_usage();
    usage.set_prompt_tokens(result.prompt_tokens);
    usage.set_generated_tokens(result.generated_tokens);
    usage.set_cached_tokens(result.cached_tokens);
    usage.set_queue_seconds(result.queue_seconds);
    usage.set_time_to_first_token_seconds(result.time_to_first_token_seconds);
    waiting_bytes_ += ApproximateBytes(response);
    waiting_.push_back(std::move(response));
  }
  End(status, /*drop=*/false);
  Advance();
}

void GenerateCall::OnError(const absl::Status& status) {
  absl::MutexLock lock(&mu_);
  End(status, /*drop=*/false);
  Advance();
}

void GenerateCall::End(const absl::Status& status, bool drop) {
  if (!end_.has_value()) end_ = status;
  if (!drop) return;
  waiting_.clear();
  waiting_bytes_ = 0;
}

void GenerateCall::Advance() {
  if (writing_ || finished_) return;
  if (!waiting_.empty()) {
    current_ = std::move(waiting_.front());
    waiting_.pop_front();
    waiting_bytes_ -= ApproximateBytes(current_);
    writing_ = true;
    StartWrite(&current_);
  } else if (end_.has_value()) {
    finished_ = true;
    Finish(ToGrpc(*end_));
  }
}

void GenerateCall::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mu_);
  writing_ = false;
  if (!ok) {
    CancelRequest();
    End(absl::CancelledError("the reader has gone"), /*drop=*/true);
  }
  Advance();
}

void GenerateCall::OnCancel() {
  absl::MutexLock lock(&mu_);
  // The end follows from the engine, or from Submit, which still reads the request.
  CancelRequest();
}

}  // namespace lorad::server
