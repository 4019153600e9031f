#include "tests/bench/grpc_load_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/status.h"
#include "engine/core/status_macros.h"
#include "grpcpp/grpcpp.h"

namespace lorad::bench {

// One stream, from its request to its status.
class GrpcLoadClient::Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(GrpcLoadClient& client, const std::string& token, v1::GenerateRequest request,
       RequestListener* listener)
      : client_(client), listener_(listener), request_(std::move(request)) {
    if (!token.empty()) context_.AddMetadata("authorization", absl::StrCat("Bearer ", token));
  }

  void Start(v1::InferenceService::Stub& stub) {
    stub.async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.ids_size() > 0) listener_->OnTokens(response_.ids_size());
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    client_.Forget(this);
    RequestListener* const listener = listener_;
    const absl::Status end = client::FromGrpc(status);
    delete this;
    listener->OnEnd(end);
  }

 private:
  GrpcLoadClient& client_;
  RequestListener* const listener_;
  const v1::GenerateRequest request_;
  v1::GenerateResponse response_;
  grpc::ClientContext context_;
};

GrpcLoadClient::GrpcLoadClient(int64_t vocab_size, std::vector<std::string> adapters)
    : vocab_size_(vocab_size), adapters_(std::move(adapters)) {}

absl::StatusOr<std::unique_ptr<GrpcLoadClient>> GrpcLoadClient::Create(
    const client::ConnectOptions& options, int64_t connections, int64_t vocab_size,
    std::vector<std::string> adapters) {
  std::unique_ptr<GrpcLoadClient> load(new GrpcLoadClient(vocab_size, std::move(adapters)));
  client::ConnectOptions unshared = options;
  unshared.unshared = true;
  for (int64_t i = 0; i < connections; ++i) {
    Line& line = load->lines_.emplace_back();
    ASSIGN_OR_RETURN(line.connection, client::Connection::Open(unshared));
    line.stub = v1::InferenceService::NewStub(line.connection->channel());
  }
  const auto until = std::chrono::system_clock::now() + std::chrono::seconds(10);
  for (const Line& line : load->lines_) {
    if (!line.connection->channel()->WaitForConnected(until))
      return absl::UnavailableError(absl::StrCat("not all of ", connections, " connections to ",
                                                 options.server, " came about in 10 s"));
  }
  return load;
}

absl::Status GrpcLoadClient::Start(const PlannedRequest& planned, RequestListener* listener) {
  v1::GenerateRequest request;
  const std::vector<int32_t> ids = PromptIds(planned, vocab_size_);
  request.mutable_prompt_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  if (planned.adapter >= 0) request.set_adapter(adapters_[planned.adapter]);
  request.set_temperature(0);
  request.set_max_tokens(static_cast<int32_t>(planned.output_tokens));
  request.set_ignore_eos(true);
  const Line& line = lines_[next_++ % lines_.size()];
  auto* const call =
      new Call(*this, line.connection->options().token, std::move(request), listener);
  {
    absl::MutexLock lock(&mu_);
    running_.insert(call);
  }
  call->Start(*line.stub);
  return absl::OkStatus();
}

void GrpcLoadClient::CancelAll() {
  absl::MutexLock lock(&mu_);
  for (Call* call : running_) call->Cancel();
}

void GrpcLoadClient::Forget(Call* call) {
  absl::MutexLock lock(&mu_);
  running_.erase(call);
}

}  // namespace lorad::bench
