// Text and token ids from the base model or an adapter.
#ifndef LORAD_CLIENT_INFERENCE_H_
#define LORAD_CLIENT_INFERENCE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "lorad/v1/inference_service.pb.h"

namespace lorad::client {

struct Generation {
  std::string adapter;  // "name@version" that answered; empty: the base model
  std::string text;     // empty when the model has no tokenizer
  std::vector<int32_t> ids;
  std::vector<v1::TokenLogprob> logprobs;  // one per id, when asked for
  v1::GenerateFinish finish;
};

// Thread-safe. Errors are the server's (client/status.h has their details) unless said otherwise.
class InferenceClient {
 public:
  explicit InferenceClient(std::shared_ptr<Connection> connection)
      : connection_(std::move(connection)) {}

  // `on_delta` is called on the caller's thread with each message as it comes; false ends the
  // request (kCancelled). It may be empty. Repeated after UNAVAILABLE only while nothing has come.
  // Internal: an answer ended without a finish, or its messages name different adapters.
  absl::StatusOr<Generation> Generate(
      const v1::GenerateRequest& request,
      const std::function<bool(const v1::GenerateResponse&)>& on_delta = nullptr);
  // The same with the request's `n` answers, by their index.
  absl::StatusOr<std::vector<Generation>> GenerateSamples(
      const v1::GenerateRequest& request,
      const std::function<bool(const v1::GenerateResponse&)>& on_delta = nullptr);
  // Many requests in one call, which has no timeout but the connection's deadline. `on_answers` is
  // called on the caller's thread with the position of each request that has ended, in the order in
  // which they end, and its answers or its own error; false ends the call (kCancelled). Repeated
  // after UNAVAILABLE only while nothing has come.
  absl::Status GenerateBatch(
      const v1::GenerateBatchRequest& request,
      const std::function<bool(int, absl::StatusOr<std::vector<Generation>>)>& on_answers);
  absl::StatusOr<v1::ScoreResponse> Score(const v1::ScoreRequest& request);
  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request);
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request);

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace lorad::client

#endif  // LORAD_CLIENT_INFERENCE_H_
