#include "client/inference.h"

#include <algorithm>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "client/status.h"
#include "engine/core/status_macros.h"
#include "grpcpp/grpcpp.h"
#include "lorad/v1/inference_service.grpc.pb.h"

namespace lorad::client {
namespace {

// The answers to one request, as their messages come.
class Answers {
 public:
  explicit Answers(const v1::GenerateRequest& request) : count_(std::max(1, request.n())) {}

  absl::Status Add(const v1::GenerateResponse& delta) {
    if (delta.index() < 0 || delta.index() >= count_) {
      return absl::InternalError(
          absl::StrCat("an answer has index ", delta.index(), ", but ", count_, " were asked for"));
    }
    if (!adapter_.has_value()) adapter_ = delta.adapter();
    if (delta.adapter() != *adapter_) {
      return absl::InternalError(absl::StrCat("the answer began with adapter \"", *adapter_,
                                              "\" and went on with \"", delta.adapter(), "\""));
    }
    Generation& generation = generations_[delta.index()];
    generation.adapter = *adapter_;
    generation.text += delta.text();
    generation.ids.insert(generation.ids.end(), delta.ids().begin(), delta.ids().end());
    generation.logprobs.insert(generation.logprobs.end(), delta.logprobs().begin(),
                               delta.logprobs().end());
    if (delta.has_finish()) generation.finish = delta.finish();
    return absl::OkStatus();
  }
  bool complete() const {
    const auto finished = [](const auto& each) {
      return each.second.finish.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
    };
    return static_cast<int>(generations_.size()) == count_ &&
           std::all_of(generations_.begin(), generations_.end(), finished);
  }
  std::vector<Generation> Take() {
    std::vector<Generation> all;
    for (auto& [index, generation] : generations_) all.push_back(std::move(generation));
    return all;
  }

 private:
  const int count_;
  std::map<int, Generation> generations_;  // by index
  std::optional<std::string> adapter_;     // of the first message
};

// A batch on its way: which answers are whole.
class Batch {
 public:
  using OnAnswers = std::function<bool(int, absl::StatusOr<std::vector<Generation>>)>;

  Batch(const v1::GenerateBatchRequest& request, const OnAnswers& on_answers)
      : on_answers_(on_answers) {
    for (const v1::GenerateRequest& each : request.requests()) answers_.emplace_back(each);
  }

  absl::Status Add(const v1::GenerateBatchResponse& message) {
    const int index = message.request_index();
    if (index < 0 || index >= static_cast<int>(answers_.size()) || !answers_[index].has_value()) {
      return absl::InternalError(absl::StrCat("a message for request ", index, " of ",
                                              answers_.size(), ", which does not wait for one"));
    }
    Answers& answers = *answers_[index];
    if (message.has_error()) return End(index, FromProto(message.error()));
    RETURN_IF_ERROR(answers.Add(message.response()));
    return answers.complete() ? End(index, answers.Take()) : absl::OkStatus();
  }
  bool complete() const { return ended_ == answers_.size(); }

 private:
  absl::Status End(int index, absl::StatusOr<std::vector<Generation>> result) {
    answers_[index].reset();
    ++ended_;
    return on_answers_(index, std::move(result)) ? absl::OkStatus()
                                                 : absl::CancelledError("cancelled by the caller");
  }

  const OnAnswers& on_answers_;
  std::vector<std::optional<Answers>> answers_;  // none: ended
  size_t ended_ = 0;
};

// Gives `add` each message of a stream that `open` makes. Its error ends the call; that of a stream
// which has brought something is kept from Connection::Run, as a repetition would bring it twice.
template <typename Message, typename Open, typename Add>
absl::Status ReadAll(Connection& connection, const CallOptions& options, Open open, Add add) {
  absl::Status local;
  const auto attempt = [&](grpc::ClientContext& context) {
    const auto reader = open(context);
    Message message;
    bool any = false;
    while (reader->Read(&message)) {
      any = true;
      if (local.ok()) local = add(message);
      if (!local.ok()) context.TryCancel();
    }
    const grpc::Status status = reader->Finish();
    if (!any || status.ok()) return status;
    if (local.ok()) local = FromGrpc(status);
    return StoppedHere();
  };
  const absl::Status status = connection.Run(options, attempt);
  RETURN_IF_ERROR(local);
  return status;
}

}  // namespace

absl::StatusOr<Generation> InferenceClient::Generate(
    const v1::GenerateRequest& request,
    const std::function<bool(const v1::GenerateResponse&)>& on_delta) {
  if (request.n() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("n: ", request.n(), " answers do not fit one; use GenerateSamples"));
  }
  ASSIGN_OR_RETURN(std::vector<Generation> generations, GenerateSamples(request, on_delta));
  return std::move(generations[0]);
}

absl::StatusOr<std::vector<Generation>> InferenceClient::GenerateSamples(
    const v1::GenerateRequest& request,
    const std::function<bool(const v1::GenerateResponse&)>& on_delta) {
  const auto stub = v1::InferenceService::NewStub(connection_->channel());
  Answers answers(request);
  const absl::Status status = ReadAll<v1::GenerateResponse>(
      *connection_, {.idempotent = true, .work = true},
      [&](grpc::ClientContext& context) { return stub->Generate(&context, request); },
      [&](const v1::GenerateResponse& delta) -> absl::Status {
        RETURN_IF_ERROR(answers.Add(delta));
        if (on_delta && !on_delta(delta)) return absl::CancelledError("cancelled by the caller");
        return absl::OkStatus();
      });
  RETURN_IF_ERROR(status);
  if (!answers.complete()) {
    return absl::InternalError("the answer ended without a finish reason");
  }
  return answers.Take();
}

absl::Status InferenceClient::GenerateBatch(
    const v1::GenerateBatchRequest& request,
    const std::function<bool(int, absl::StatusOr<std::vector<Generation>>)>& on_answers) {
  const auto stub = v1::InferenceService::NewStub(connection_->channel());
  Batch batch(request, on_answers);
  const absl::Status status = ReadAll<v1::GenerateBatchResponse>(
      *connection_, {.idempotent = true, .stream = true},
      [&](grpc::ClientContext& context) { return stub->GenerateBatch(&context, request); },
      [&](const v1::GenerateBatchResponse& message) { return batch.Add(message); });
  RETURN_IF_ERROR(status);
  if (!batch.complete()) {
    return absl::InternalError("the batch ended before all requests had their answers");
  }
  return absl::OkStatus();
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
