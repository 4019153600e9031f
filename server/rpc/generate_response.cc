#include "server/rpc/generate_response.h"

#include <utility>

namespace lorad::server {
namespace {

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

}  // namespace

v1::GenerateResponse ToProto(GenerateDelta delta) {
  v1::GenerateResponse response;
  response.set_text(std::move(delta.text));
  response.mutable_ids()->Assign(delta.ids.begin(), delta.ids.end());
  for (const TokenLogprob& logprob : delta.logprobs) {
    *response.add_logprobs() = LogprobToProto(logprob);
  }
  return response;
}

v1::GenerateFinish ToProto(const GenerateResult& result) {
  v1::GenerateFinish finish;
  finish.set_finish_reason(result.finish_reason == FinishReason::kStop ? v1::FINISH_REASON_STOP
                                                                       : v1::FINISH_REASON_LENGTH);
  v1::Usage& usage = *finish.mutable_usage();
  usage.set_prompt_tokens(result.prompt_tokens);
  usage.set_generated_tokens(result.generated_tokens);
  usage.set_cached_tokens(result.cached_tokens);
  usage.set_queue_seconds(result.queue_seconds);
  usage.set_time_to_first_token_seconds(result.time_to_first_token_seconds);
  return finish;
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

void Append(v1::GenerateResponse& last, v1::GenerateResponse more) {
  last.mutable_text()->append(more.text());
  last.mutable_ids()->MergeFrom(more.ids());
  for (v1::TokenLogprob& logprob : *more.mutable_logprobs()) {
    *last.add_logprobs() = std::move(logprob);
  }
  if (more.has_finish()) *last.mutable_finish() = std::move(*more.mutable_finish());
}

int64_t ApproximateBytes(const v1::GenerateResponse& response) {
  int64_t bytes = 64 + static_cast<int64_t>(response.text().size()) + 4 * response.ids_size();
  for (const v1::TokenLogprob& logprob : response.logprobs()) bytes += 16 + 16 * logprob.top_size();
  return bytes;
}

}  // namespace lorad::server
