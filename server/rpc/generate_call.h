// One Generate stream: from the engine's thread to a reader of unknown speed.
#ifndef LORAD_SERVER_RPC_GENERATE_CALL_H_
#define LORAD_SERVER_RPC_GENERATE_CALL_H_

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "lorad/v1/inference_service.pb.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Output waits here while a write is under way; what waits is merged into few messages, and a
// reader that lets more than the limit gather is cut off and its request cancelled. Thread-safe:
// the engine's thread, gRPC's threads and the pool call it. Held by itself until gRPC and the
// engine are done with it.
class GenerateCall : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                     public GenerateSink,
                     public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall(const Services* services, const v1::GenerateRequest* request, absl::Time deadline)
      : services_(services), request_(request), deadline_(deadline) {}
  // Call once, with the object in a shared_ptr.
  void Start();

  void OnDelta(GenerateDelta delta) override ABSL_LOCKS_EXCLUDED(mu_);
  void OnFinish(const GenerateResult& result) override ABSL_LOCKS_EXCLUDED(mu_);
  void OnError(const absl::Status& status) override ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mu_);
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mu_);
  void OnDone() override { self_.reset(); }

  absl::Status Submit();
  void CancelRequest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Append(v1::GenerateResponse response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Ends the stream with `status` once what waits is written, or at once with `drop`.
  void End(const absl::Status& status, bool drop) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Starts the next write, or the end, when neither is under way.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Services* const services_;
  const v1::GenerateRequest* const request_;  // gRPC's, until OnDone
  const absl::Time deadline_;
  std::shared_ptr<GenerateCall> self_;
  std::string adapter_ref_;  // set before the engine knows the call

  absl::Mutex mu_;
  std::optional<RequestId> id_ ABSL_GUARDED_BY(mu_);
  bool cancel_ ABSL_GUARDED_BY(mu_) = false;  // the engine shall stop, as soon as there is an id
  std::deque<v1::GenerateResponse> waiting_ ABSL_GUARDED_BY(mu_);
  int64_t waiting_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  v1::GenerateResponse current_ ABSL_GUARDED_BY(mu_);  // while writing_, gRPC's
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_GENERATE_CALL_H_
