// The two streams of AdapterService: PEFT directories in and out.
#ifndef LORAD_SERVER_RPC_ADAPTER_FILES_H_
#define LORAD_SERVER_RPC_ADAPTER_FILES_H_

#include "lorad/v1/adapter_service.grpc.pb.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Starts the call, which then owns itself.
grpc::ServerReadReactor<v1::ImportAdapterRequest>* StartImport(const Services* services,
                                                               v1::ImportAdapterResponse* response);
grpc::ServerWriteReactor<v1::ExportAdapterResponse>* StartExport(
    const Services* services, const v1::ExportAdapterRequest& request);

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_ADAPTER_FILES_H_
