// One GenerateRequest in the engine: its `n` answers, which start and are cancelled together.
#ifndef LORAD_SERVER_RPC_SAMPLE_GROUP_H_
#define LORAD_SERVER_RPC_SAMPLE_GROUP_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "lorad/v1/inference_service.pb.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Prepare, then Submit until it does not fail for lack of room; one after the other. Held by the
// engine until its answers have ended.
class SampleGroup : public std::enable_shared_from_this<SampleGroup> {
 public:
  // Called on the engine's thread, without a lock; returns at once.
  class Receiver {
   public:
    virtual ~Receiver() = default;
    // A part of one answer, or its end: the last one has `finish`.
    virtual void OnResponse(v1::GenerateResponse response) = 0;
    // Once, last: all answers are complete, or one failed and the others are given up.
    virtual void OnEnd(const absl::Status& status) = 0;
  };

  // A receiver that is gone hears nothing more.
  SampleGroup(const Services* services, std::weak_ptr<Receiver> receiver)
      : services_(services), receiver_(std::move(receiver)) {}

  // Checks the request, makes its text ids and resolves its adapter. May take a while.
  absl::Status Prepare(const v1::GenerateRequest& request);
  // Hands all answers to the engine, or none: then the receiver hears nothing, and after
  // kResourceExhausted (the queue is full) it may be called again.
  absl::Status Submit(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mu_);
  // Ends all answers before the next step, also those that Submit is handing over. Thread-safe.
  void Cancel() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  class Sample;  // the sink of one answer

  // On the engine's thread.
  void Send(int index, v1::GenerateResponse response);
  void Finish(int index, const GenerateResult& result) ABSL_LOCKS_EXCLUDED(mu_);
  void End(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  const Services* const services_;
  const std::weak_ptr<Receiver> receiver_;
  // Set by Prepare.
  GenerateRequest request_;
  int count_ = 0;
  std::string adapter_ref_;
  // The engine thread's.
  int finished_ = 0;
  bool ended_ = false;

  absl::Mutex mu_;
  std::vector<RequestId> ids_ ABSL_GUARDED_BY(mu_);
  bool cancel_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_SAMPLE_GROUP_H_
