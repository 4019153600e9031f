#include "client/inference.h"

#include "absl/strings/str_cat.h"
#include "client/status.h"
#include "engine/core/status_macros.h"
#include "grpcpp/grpcpp.h"
#include "lorad/v1/inference_service.grpc.pb.h"

namespace lorad::client {
namespace {

// Adds one message to what has come; `first` is true for the first one.
absl::Status Append(const v1::GenerateResponse& delta, bool first, Generation& generation) {
  if (first) {
    generation.adapter = delta.adapter();
  } else if (delta.adapter() != generation.adapter) {
    return absl::InternalError(absl::StrCat("the answer began with adapter \"", generation.adapter,
                                            "\" and went on with \"", delta.adapter(), "\""));
  }
  generation.text += delta.text();
  generation.ids.insert(generation.ids.end(), delta.ids().begin(), delta.ids().end());
  generation.logprobs.insert(generation.logprobs.end(), delta.logprobs().begin(),
                             delta.logprobs().end());
  if (delta.has_finish()) generation.finish = delta.finish();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Generation> InferenceClient::Generate(
    const v1::GenerateRequest& request,
    const std::function<bool(const v1::GenerateResponse&)>& on_delta) {
  const auto stub = v1::InferenceService::NewStub(connection_->channel());
  Generation generation;
  absl::Status local;
  int64_t messages = 0;
  const auto attempt = [&](grpc::ClientContext& context) {
    const auto reader = stub->Generate(&context, request);
    v1::GenerateResponse delta;
    while (reader->Read(&delta)) {
      local = Append(delta, messages++ == 0, generation);
      if (local.ok() && on_delta && !on_delta(delta)) {
        local = absl::CancelledError("cancelled by the caller");
      }
      if (!local.ok()) context.TryCancel();
    }
    const grpc::Status status = reader->Finish();
    if (messages == 0 || status.ok()) return status;
    // With something shown already a repetition would show it twice: keep the error from Run().
    if (local.ok()) local = FromGrpc(status);
    return StoppedHere();
  };
  const absl::Status status = connection_->Run({.idempotent = true, .work = true}, attempt);
  RETURN_IF_ERROR(local);
  RETURN_IF_ERROR(status);
  if (generation.finish.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) {
    return absl::InternalError("the answer ended without a finish reason");
  }
  return generation;
}

absl::StatusOr<v1::ScoreResponse> InferenceClient::Score(const v1::ScoreRequest& request) {
  const auto stub = v1::InferenceService::NewStub(connection_->channel());
  return connection_->Unary<v1::ScoreResponse>(
      {.idempotent = true, .work = true},
      [&](auto* context, auto* out) { return stub->Score(context, request, out); });
}

absl::StatusOr<v1::TokenizeResponse> InferenceClient::Tokenize(const v1::TokenizeRequest& request) {
  const auto stub = v1::InferenceService::NewStub(connection_->channel());
  return connection_->Unary<v1::TokenizeResponse>(
      {.idempotent = true},
      [&](auto* context, auto* out) { return stub->Tokenize(context, request, out); });
}

absl::StatusOr<v1::DetokenizeResponse> InferenceClient::Detokenize(
    const v1::DetokenizeRequest& request) {
  const auto stub = v1::InferenceService::NewStub(connection_->channel());
  return connection_->Unary<v1::DetokenizeResponse>(
      {.idempotent = true},
      [&](auto* context, auto* out) { return stub->Detokenize(context, request, out); });
}

}  // namespace lorad::client
