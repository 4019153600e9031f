#include "client/admin.h"

#include "grpcpp/grpcpp.h"
#include "lorad/v1/admin_service.grpc.pb.h"

namespace lorad::client {

absl::StatusOr<v1::ServerInfo> AdminClient::GetServerInfo() {
  const auto stub = v1::AdminService::NewStub(connection_->channel());
  return connection_->Unary<v1::ServerInfo>({.idempotent = true}, [&](auto* context, auto* out) {
    return stub->GetServerInfo(context, v1::GetServerInfoRequest(), out);
  });
}

absl::Status AdminClient::StreamStats(
    absl::Duration interval, const std::function<bool(const v1::ServerStats&)>& on_sample) {
  v1::StreamStatsRequest request;
  const absl::Duration seconds = absl::Floor(interval, absl::Seconds(1));
  request.mutable_interval()->set_seconds(absl::ToInt64Seconds(seconds));
  request.mutable_interval()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(interval - seconds)));
  const auto stub = v1::AdminService::NewStub(connection_->channel());
  bool ended = false;
  const absl::Status status = connection_->Run({.stream = true}, [&](grpc::ClientContext& context) {
    const auto reader = stub->StreamStats(&context, request);
    v1::ServerStats sample;
    while (!ended && reader->Read(&sample)) ended = !on_sample(sample);
    if (ended) context.TryCancel();
    return reader->Finish();
  });
  return ended ? absl::OkStatus() : status;
}

}  // namespace lorad::client
