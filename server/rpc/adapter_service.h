// lorad.v1.AdapterService: checks, calls the registry and the engine, translates.
#ifndef LORAD_SERVER_RPC_ADAPTER_SERVICE_H_
#define LORAD_SERVER_RPC_ADAPTER_SERVICE_H_

#include "lorad/v1/adapter_service.grpc.pb.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Thread-safe.
class AdapterServiceImpl : public v1::AdapterService::CallbackService {
 public:
  explicit AdapterServiceImpl(const Services* services) : services_(services) {}

  grpc::ServerReadReactor<v1::ImportAdapterRequest>* Import(
      grpc::CallbackServerContext* context, v1::ImportAdapterResponse* response) override;
  grpc::ServerWriteReactor<v1::ExportAdapterResponse>* Export(
      grpc::CallbackServerContext* context, const v1::ExportAdapterRequest* request) override;
  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const v1::GetAdapterRequest* request,
                                v1::Adapter* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const v1::ListAdaptersRequest* request,
                                 v1::ListAdaptersResponse* response) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context,
                                   const v1::DeleteAdapterRequest* request,
                                   v1::DeleteAdapterResponse* response) override;
  grpc::ServerUnaryReactor* SetAlias(grpc::CallbackServerContext* context,
                                     const v1::SetAliasRequest* request,
                                     v1::Alias* response) override;
  grpc::ServerUnaryReactor* ListAliases(grpc::CallbackServerContext* context,
                                        const v1::ListAliasesRequest* request,
                                        v1::ListAliasesResponse* response) override;
  grpc::ServerUnaryReactor* Load(grpc::CallbackServerContext* context,
                                 const v1::LoadAdapterRequest* request,
                                 v1::Adapter* response) override;
  grpc::ServerUnaryReactor* Unload(grpc::CallbackServerContext* context,
                                   const v1::UnloadAdapterRequest* request,
                                   v1::Adapter* response) override;

 private:
  const Services* const services_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_ADAPTER_SERVICE_H_
