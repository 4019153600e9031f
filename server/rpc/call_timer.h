// Measures every call, whatever its service, as a server interceptor.
#ifndef LORAD_SERVER_RPC_CALL_TIMER_H_
#define LORAD_SERVER_RPC_CALL_TIMER_H_

#include <memory>

#include "grpcpp/support/server_interceptor.h"
#include "server/rpc/rpc_observer.h"

namespace lorad::server {

// `observer` outlives the server that the factory is given to.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallTimer(
    RpcObserver* observer);

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_CALL_TIMER_H_
