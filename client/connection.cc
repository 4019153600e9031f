#include "client/connection.h"

#include <algorithm>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/status.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "grpcpp/grpcpp.h"

namespace lorad::client {
namespace {

constexpr int kMaxMessageBytes = 8 << 20;  // as the contract says, in either direction

bool IsLocal(const std::string& server) {
  return absl::StartsWith(server, "unix:") || absl::StartsWith(server, "127.") ||
         absl::StartsWith(server, "localhost:") || absl::StartsWith(server, "[::1]:");
}

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  if (path.empty()) return std::string();
  return ReadFile(path, 1 << 20);
}

absl::Status Check(const ConnectOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("tls_cert and tls_key are needed together");
  }
  if (!options.tls && !options.token.empty() && !IsLocal(options.server)) {
    return absl::InvalidArgumentError(absl::StrCat("the token would travel to ", options.server,
                                                   " in clear: use TLS (tls, tls_ca)"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(
    const ConnectOptions& options) {
  if (!options.tls) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadPem(options.tls_ca));
  ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadPem(options.tls_cert));
  ASSIGN_OR_RETURN(ssl.pem_private_key, ReadPem(options.tls_key));
  return grpc::SslCredentials(ssl);
}

}  // namespace

absl::StatusOr<std::shared_ptr<Connection>> Connection::Open(ConnectOptions options) {
  if (!options.tls_ca.empty() || !options.tls_cert.empty() || !options.tls_server_name.empty()) {
    options.tls = true;
  }
  RETURN_IF_ERROR(Check(options));
  ASSIGN_OR_RETURN(const auto credentials, Credentials(options));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  // A server that restarts should be found again at once, not after gRPC's backoff of up to 120 s.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // An http_proxy in the environment is not meant for this machine itself.
  if (IsLocal(options.server)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (options.unshared) arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (!options.tls_server_name.empty()) {
    arguments.SetSslTargetNameOverride(options.tls_server_name);
  }
  auto channel = grpc::CreateCustomChannel(options.server, credentials, arguments);
  return std::shared_ptr<Connection>(new Connection(std::move(options), std::move(channel)));
}

Connection::Connection(ConnectOptions options, std::shared_ptr<grpc::Channel> channel)
    : options_(std::move(options)), channel_(std::move(channel)) {}

Connection::~Connection() = default;

absl::Status Connection::RunOnce(const CallOptions& call,
                                 const std::function<grpc::Status(grpc::ClientContext&)>& attempt) {
  grpc::ClientContext context;
  absl::Time deadline = options_.deadline;
  if (!call.stream) {
    const absl::Duration timeout = call.work ? options_.work_timeout : options_.call_timeout;
    deadline = std::min(deadline, absl::Now() + timeout);
  }
  if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
  if (!options_.token.empty()) {
    context.AddMetadata("authorization", absl::StrCat("Bearer ", options_.token));
  }
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError("cancelled by the caller");
    running_.insert(&context);
  }
  const grpc::Status status = attempt(context);
  absl::MutexLock lock(&mutex_);
  running_.erase(&context);
  absl::Status out = FromGrpc(status);
  if (absl::IsCancelled(out) && !cancelled_ && DetailsOf(out).reason.empty()) {
    return absl::UnavailableError("the server ended the call; it is shutting down");
  }
  return out;
}

absl::Status Connection::Run(const CallOptions& call,
                             const std::function<grpc::Status(grpc::ClientContext&)>& attempt) {
  absl::Duration backoff = options_.first_backoff;
  for (int i = 1;; ++i) {
    const absl::Status status = RunOnce(call, attempt);
    if (status.code() != absl::StatusCode::kUnavailable || !call.idempotent) return status;
    if (i >= options_.max_attempts) return status;
    const absl::Duration asked = DetailsOf(status).retry_after.value_or(absl::ZeroDuration());
    if (!Sleep(std::max(backoff, std::min(asked, 5 * options_.max_backoff)))) return status;
    backoff = std::min(2 * backoff, options_.max_backoff);
  }
}

void Connection::CancelAll() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : running_) context->TryCancel();
}

bool Connection::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

bool Connection::Sleep(absl::Duration duration) const {
  absl::MutexLock lock(&mutex_);
  const absl::Time until = std::min(absl::Now() + duration, options_.deadline);
  return !mutex_.AwaitWithDeadline(absl::Condition(&cancelled_), until);
}

grpc::Status StoppedHere() { return grpc::Status(grpc::StatusCode::ABORTED, "stopped here"); }

std::string NewRequestId() {
  std::random_device device;
  const uint32_t a = device(), b = device(), c = device(), d = device();
  return absl::StrFormat("%08x-%04x-4%03x-%04x-%04x%08x", a, b >> 16, b & 0xFFF,
                         0x8000 | (c >> 16 & 0x3FFF), c & 0xFFFF, d);
}

}  // namespace lorad::client
