// One GenerateBatch stream.
#ifndef LORAD_SERVER_RPC_GENERATE_BATCH_CALL_H_
#define LORAD_SERVER_RPC_GENERATE_BATCH_CALL_H_

#include <cstdint>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/grpcpp.h"
#include "lorad/v1/inference_service.pb.h"
#include "server/rpc/alarm.h"
#include "server/rpc/push_call.h"
#include "server/rpc/sample_group.h"
#include "server/rpc/services.h"

namespace lorad::server {

// Keeps as many requests in the engine as can run, and a quarter more, so that no slot waits for
// the next; each that ends brings in the next. The rest wait here, and all do while the queue is
// full or more than the stream's backlog waits for the reader. What is in the engine may still add
// its output to the backlog, so a batch is cut off by time alone. Thread-safe: the engine's thread,
// gRPC's threads and the pool call it.
class GenerateBatchCall : public PushCall<v1::GenerateBatchResponse> {
 public:
  GenerateBatchCall(const Services* services, grpc::CallbackServerContext* context,
                    const v1::GenerateBatchRequest& request);
  // Call once, with the object in a shared_ptr.
  void Start() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  class Item;  // one request, from its turn to its end

  void OnStop() override ABSL_LOCKS_EXCLUDED(mu_);
  void OnWritten() override { Wake(); }
  int64_t BytesOf(const v1::GenerateBatchResponse& response) const override;
  // Answers come whole, or in parts that are large enough.
  bool SameAnswer(const v1::GenerateBatchResponse&,
                  const v1::GenerateBatchResponse&) const override {
    return false;
  }
  void Append(v1::GenerateBatchResponse&, v1::GenerateBatchResponse) const override {}

  // There may be room for more requests: has them submitted on the pool.
  void Wake() ABSL_LOCKS_EXCLUDED(mu_);
  // Submits what there is room for. On the pool, one at a time.
  void Submit() ABSL_LOCKS_EXCLUDED(mu_);
  // The request whose turn it is; null when there is no room, or none is left.
  std::shared_ptr<Item> NextItem() ABSL_LOCKS_EXCLUDED(mu_);
  // False when the queue was full: then it is tried again, at the latest after a while.
  bool SubmitItem(const std::shared_ptr<Item>& item) ABSL_LOCKS_EXCLUDED(mu_);
  // The last word on a request.
  void EndItem(Item& item, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mu_);

  const Services* const services_;
  const v1::GenerateBatchRequest request_;  // a copy: gRPC's may go while Submit reads it
  const absl::Time deadline_;
  const int64_t max_in_engine_;  // answers

  absl::Mutex mu_;
  std::map<int, std::shared_ptr<Item>> begun_ ABSL_GUARDED_BY(mu_);  // and not ended, by index
  std::shared_ptr<Item> refused_ ABSL_GUARDED_BY(mu_);  // by the full queue; goes first
  int next_ ABSL_GUARDED_BY(mu_) = 0;
  int ended_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t in_engine_ ABSL_GUARDED_BY(mu_) = 0;  // answers of begun_
  bool submitting_ ABSL_GUARDED_BY(mu_) = false;
  bool again_ ABSL_GUARDED_BY(mu_) = false;  // woken since
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  Alarm retry_ ABSL_GUARDED_BY(mu_);
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_RPC_GENERATE_BATCH_CALL_H_
