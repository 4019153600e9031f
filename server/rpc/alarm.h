// Something to be done once, later, on a thread of gRPC's.
#ifndef LORAD_SERVER_RPC_ALARM_H_
#define LORAD_SERVER_RPC_ALARM_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "grpcpp/alarm.h"

namespace lorad::server {

// Thread-compatible. `what` may still be running when the Alarm is gone or set again, so it should
// hold what it needs by a weak_ptr; it must not block.
class Alarm {
 public:
  // Takes the place of what was set before. May be called from `what` itself.
  void Set(absl::Time at, std::function<void()> what) {
    alarm_ = std::make_unique<grpc::Alarm>();  // one that has fired cannot be set again
    alarm_->Set(absl::ToChronoTime(at), [what = std::move(what)](bool expired) {
      if (expired) what();
    });
  }

 private:
  std::unique_ptr<grpc::Alarm> alarm_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_ALARM_H_
