// A load's requests over gRPC, on many connections.
#ifndef LORAD_TESTS_BENCH_GRPC_LOAD_CLIENT_H_
#define LORAD_TESTS_BENCH_GRPC_LOAD_CLIENT_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "client/connection.h"
#include "lorad/v1/inference_service.grpc.pb.h"
#include "tests/bench/load_driver.h"

namespace lorad::bench {

// Streams run on gRPC's own threads: none waits for another. REQUIRES: nothing runs when it is
// destroyed.
class GrpcLoadClient final : public LoadClient {
 public:
  // Connected when it returns. `adapters` are the names that PlannedRequest::adapter counts.
  // kUnavailable: a connection is not there within ten seconds; errors of Connection::Open.
  static absl::StatusOr<std::unique_ptr<GrpcLoadClient>> Create(
      const client::ConnectOptions& options, int64_t connections, int64_t vocab_size,
      std::vector<std::string> adapters);

  absl::Status Start(const PlannedRequest& request, RequestListener* listener) override;
  void CancelAll() override;

 private:
  class Call;
  struct Line {
    std::shared_ptr<client::Connection> connection;
    std::unique_ptr<v1::InferenceService::Stub> stub;
  };

  GrpcLoadClient(int64_t vocab_size, std::vector<std::string> adapters);
  void Forget(Call* call);

  const int64_t vocab_size_;
  const std::vector<std::string> adapters_;
  std::vector<Line> lines_;
  size_t next_ = 0;
  absl::Mutex mu_;
  std::set<Call*> running_ ABSL_GUARDED_BY(mu_);  // each deletes itself at its end
};

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_GRPC_LOAD_CLIENT_H_
