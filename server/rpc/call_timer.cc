#include "server/rpc/call_timer.h"

#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace lorad::server {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

// Lives as long as the call. A call that ends without sending a status was cancelled.
class CallTimer : public grpc::experimental::Interceptor {
 public:
  CallTimer(RpcObserver* observer, const char* method)
      : observer_(observer), method_(method), start_(absl::Now()) {
    observer_->OnCallStarted(method_);
  }
  ~CallTimer() override {
    observer_->OnCallEnded(method_, code_, absl::ToDoubleSeconds(absl::Now() - start_));
  }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = methods->GetSendStatus().error_code();
    }
    methods->Proceed();
  }

 private:
  RpcObserver* const observer_;
  const std::string method_;
  const absl::Time start_;
  grpc::StatusCode code_ = grpc::StatusCode::CANCELLED;
};

class CallTimerFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallTimerFactory(RpcObserver* observer) : observer_(observer) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return new CallTimer(observer_, info->method());  // gRPC takes it
  }

 private:
  RpcObserver* const observer_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallTimer(
    RpcObserver* observer) {
  return std::make_unique<CallTimerFactory>(observer);
}

}  // namespace lorad::server
