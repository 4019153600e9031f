// One Generate stream.
#ifndef LORAD_SERVER_RPC_GENERATE_CALL_H_
#define LORAD_SERVER_RPC_GENERATE_CALL_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "grpcpp/grpcpp.h"
#include "lorad/v1/inference_service.pb.h"
#include "server/rpc/push_call.h"
#include "server/rpc/sample_group.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Thread-safe: the engine's thread, gRPC's threads and the pool call it.
class GenerateCall : public PushCall<v1::GenerateResponse>, public SampleGroup::Receiver {
 public:
  GenerateCall(const Services* services, grpc::CallbackServerContext* context,
               const v1::GenerateRequest* request);
  // Call once, with the object in a shared_ptr.
  void Start();

 private:
  void OnResponse(v1::GenerateResponse response) override { Push(std::move(response)); }
  void OnEnd(const absl::Status& status) override { End(status); }

  // The end follows from the engine, or from Submit, which still reads the request.
  void OnStop() override { samples_->Cancel(); }
  int64_t BytesOf(const v1::GenerateResponse& response) const override;
  bool SameAnswer(const v1::GenerateResponse& a, const v1::GenerateResponse& b) const override;
  void Append(v1::GenerateResponse& last, v1::GenerateResponse more) const override;

  absl::Status Submit();

  const Services* const services_;
  const v1::GenerateRequest* const request_;  // gRPC's, until the end
  const absl::Time deadline_;
  std::shared_ptr<SampleGroup> samples_;  // fixed by Start
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_GENERATE_CALL_H_
