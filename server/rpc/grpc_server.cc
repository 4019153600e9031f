#include "server/rpc/grpc_server.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/ext/channelz_service_plugin.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "server/base/listen_address.h"
#include "server/rpc/adapter_service.h"
#include "server/rpc/admin_service.h"
#include "server/rpc/call_timer.h"
#include "server/rpc/dataset_service.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/job_service.h"
#include "server/rpc/planner_service.h"

namespace lorad::server {
namespace {

void SetLimits(grpc::ServerBuilder& builder, int64_t max_message_bytes) {
  // gRPC's own defaults: 4 MiB in, no limit out.
  builder.SetMaxReceiveMessageSize(static_cast<int>(max_message_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(max_message_bytes));
  // Two daemons must not share a port unnoticed.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 256);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10'000);
  // A peer that is gone is noticed after about 80 s, not 2 h, and its requests are cancelled.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  // Clients may ask as often; gRPC's default of 5 minutes would send them away.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 15 * 60'000);
  builder.AddChannelArgument(GRPC_ARG_ENABLE_CHANNELZ, 1);
}

// Plugins are per process in gRPC, and adding one twice is an error.
void InitPluginsOnce() {
  [[maybe_unused]] static const bool once = [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::channelz::experimental::InitChannelzService();
    return true;
  }();
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const std::string& listen,
                                                              const Services* services,
                                                              RpcObserver* observer) {
  InitPluginsOnce();
  auto server = absl::WrapUnique(new GrpcServer);
  server->services_.push_back(std::make_unique<DatasetServiceImpl>(services));
  server->services_.push_back(std::make_unique<JobServiceImpl>(services));
  server->services_.push_back(std::make_unique<AdapterServiceImpl>(services));
  server->services_.push_back(std::make_unique<InferenceServiceImpl>(services));
  server->services_.push_back(std::make_unique<AdminServiceImpl>(services));
  server->services_.push_back(std::make_unique<PlannerServiceImpl>(services));
  grpc::ServerBuilder builder;
  SetLimits(builder, services->facts->max_message_bytes);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(MakeCallTimer(observer));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  int port = 0;
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port);
  for (const auto& service : server->services_) builder.RegisterService(service.get());
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || port == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot listen on ", listen, " for gRPC; is the port in use by another process?"));
  }
  server->port_ = port;
  server->address_ = WithPort(listen, port);
  server->SetServing(false);
  return server;
}

const std::vector<std::string>& GrpcServer::ServiceNames() {
  static const auto* const names = new std::vector<std::string>{
      v1::DatasetService::service_full_name(), v1::JobService::service_full_name(),
      v1::AdapterService::service_full_name(), v1::InferenceService::service_full_name(),
      v1::AdminService::service_full_name(),   v1::PlannerService::service_full_name()};
  return *names;
}

std::vector<std::string> GrpcServer::MethodNames() {
  std::vector<std::string> names;
  for (const std::string& service : ServiceNames()) {
    const auto* descriptor =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service);
    for (int i = 0; i < descriptor->method_count(); ++i) {
      names.push_back(absl::StrCat("/", service, "/", descriptor->method(i)->name()));
    }
  }
  return names;
}

GrpcServer::~GrpcServer() { Shutdown(absl::Now()); }

void GrpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus("", serving);
  for (const std::string& name : ServiceNames()) health->SetServingStatus(name, serving);
}

void GrpcServer::Shutdown(absl::Time deadline) {
  if (server_ != nullptr) server_->Shutdown(absl::ToChronoTime(deadline));
}

}  // namespace lorad::server
