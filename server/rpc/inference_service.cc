#include "server/rpc/inference_service.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/calls.h"
#include "server/rpc/generate_batch_call.h"
#include "server/rpc/generate_call.h"
#include "server/rpc/text.h"

namespace lorad::server {
namespace {

absl::StatusOr<std::vector<int32_t>> ScoreIds(const v1::ScoreRequest& request,
                                              const Engine& engine) {
  std::vector<int32_t> ids;
  absl::string_view field = "ids";
  switch (request.input_case()) {
    case v1::ScoreRequest::kText: {
      field = "text";
      const bool special = !request.has_add_special_tokens() || request.add_special_tokens();
      ASSIGN_OR_RETURN(ids, TextToIds(engine, field, request.text(), special));
      break;
    }
    case v1::ScoreRequest::kIds:
      ids.assign(request.ids().ids().begin(), request.ids().ids().end());
      RETURN_IF_ERROR(CheckIds(engine, field, ids));
      break;
    case v1::ScoreRequest::INPUT_NOT_SET:
      return FieldError("ids", "or text is required");
  }
  if (ids.empty()) return FieldError(field, "has no token; at least one is needed");
  const int32_t context = engine.model().context_tokens;
  if (static_cast<int64_t>(ids.size()) > context) {
    return FieldError(field,
                      absl::StrCat("has ", ids.size(), " tokens, the context has ", context));
  }
  return ids;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceServiceImpl::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  auto call = std::make_shared<GenerateCall>(services_, context, request);
  call->Start();
  return call.get();  // holds itself
}

grpc::ServerWriteReactor<v1::GenerateBatchResponse>* InferenceServiceImpl::GenerateBatch(
    grpc::CallbackServerContext* context, const v1::GenerateBatchRequest* request) {
  auto call = std::make_shared<GenerateBatchCall>(services_, context, *request);
  call->Start();
  return call.get();  // holds itself
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Score(grpc::CallbackServerContext* context,
                                                      const v1::ScoreRequest* request,
                                                      v1::ScoreResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool scheduled = services_->pool->TrySchedule([=, this] {
    const absl::Status status = StartScore(*request, response, reactor);
    if (!status.ok()) reactor->Finish(ToGrpc(status));
  });
  if (!scheduled) reactor->Finish(ToGrpc(PoolOverloaded()));
  return reactor;
}

absl::Status InferenceServiceImpl::StartScore(const v1::ScoreRequest& request,
                                              v1::ScoreResponse* response,
                                              grpc::ServerUnaryReactor* reactor) {
  RETURN_IF_ERROR(CheckNotDraining(*services_));
  ScoreRequest score;
  ASSIGN_OR_RETURN(score.ids, ScoreIds(request, *services_->engine));
  ASSIGN_OR_RETURN(ResolvedAdapter adapter, services_->adapters->Resolve(request.adapter()));
  score.adapter_id = std::move(adapter.id);
  response->set_adapter(adapter.ref);
  response->mutable_ids()->Assign(score.ids.begin(), score.ids.end());
  const auto done = [response, reactor](absl::StatusOr<ScoreResult> result) {
    if (result.ok()) {
      // The first has no prediction; the wire leaves it out.
      response->mutable_logprobs()->Assign(result->logprobs.begin() + 1, result->logprobs.end());
    }
    reactor->Finish(ToGrpc(result.status()));
  };
  return AtQueue(services_->engine->Score(std::move(score), done));
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Tokenize(grpc::CallbackServerContext* context,
                                                         const v1::TokenizeRequest* request,
                                                         v1::TokenizeResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    const bool special = !request->has_add_special_tokens() || request->add_special_tokens();
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                     TextToIds(*services_->engine, "text", request->text(), special));
    response->mutable_ids()->Assign(ids.begin(), ids.end());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::Detokenize(grpc::CallbackServerContext* context,
                                                           const v1::DetokenizeRequest* request,
                                                           v1::DetokenizeResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const Tokenizer* tokenizer, RequireTokenizer(*services_->engine, "text"));
    RETURN_IF_ERROR(CheckIds(*services_->engine, "ids", request->ids()));
    const std::vector<int32_t> ids(request->ids().begin(), request->ids().end());
    response->set_text(
        tokenizer->Decode(ids, {.skip_special_tokens = request->skip_special_tokens()}));
    return absl::OkStatus();
  });
}

}  // namespace lorad::server
