// Requests, tokens and adapters.
#ifndef LORAD_SERVER_METRICS_SERVING_METRICS_H_
#define LORAD_SERVER_METRICS_SERVING_METRICS_H_

#include <array>

#include "engine/engine.h"
#include "server/metrics/builder.h"

namespace lorad::server {

// Thread-safe.
class ServingMetrics {
 public:
  explicit ServingMetrics(prometheus::Registry& registry);

  void OnFirstToken(bool adapter, double seconds);
  void OnInterToken(bool adapter, double seconds);
  void OnRequestFinished(const TokenTimes& times);
  void OnServingStep(bool prefill, int32_t rows, double seconds);
  void OnAdapterLoad(const std::string& source, const absl::Status& status, double seconds);
  void OnAdapterEviction() { evictions_->Increment(); }
  void OnAdapterPrefetch() { prefetches_->Increment(); }
  void OnAliasMove(const absl::Status& status);
  void OnAdapterCheck(const absl::Status& status);

 private:
  // One per kind: base, adapter.
  struct Kind {
    prometheus::Histogram* first_token;
    prometheus::Histogram* inter_token;
    prometheus::Histogram* queue;
    prometheus::Histogram* total;
    prometheus::Counter* prompt_tokens;
    prometheus::Counter* cached_tokens;
    prometheus::Counter* generated_tokens;
  };
  void MakeKinds(prometheus::Registry& registry);
  void MakeAdapters(prometheus::Registry& registry);

  std::array<Kind, 2> kinds_;
  std::array<prometheus::Counter*, 5> finished_;        // by FinishReason
  std::array<prometheus::Histogram*, 2> step_seconds_;  // decode, prefill
  std::array<prometheus::Histogram*, 2> step_rows_;
  std::array<prometheus::Counter*, 2> loads_;   // ok, error
  std::array<prometheus::Counter*, 3> swaps_;   // ok, conflict, error
  std::array<prometheus::Counter*, 2> checks_;  // ok, rejected
  prometheus::Histogram* load_from_disk_;
  prometheus::Histogram* load_from_host_;
  prometheus::Histogram* load_from_training_;
  prometheus::Counter* evictions_;
  prometheus::Counter* prefetches_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_METRICS_SERVING_METRICS_H_
