// Sends the requests of a load and notes when each of their tokens came.
#ifndef LORAD_TESTS_BENCH_LOAD_DRIVER_H_
#define LORAD_TESTS_BENCH_LOAD_DRIVER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "tests/bench/load_options.h"
#include "tests/bench/load_requests.h"

namespace lorad::bench {

using Clock = std::chrono::steady_clock;

enum class RequestOutcome {
  kCompleted,
  kRefused,     // not accepted: the queue was full
  kFailed,      // ended with an error
  kUnfinished,  // cancelled when the load was over
};

// Times in seconds since the load began.
struct RequestRecord {
  PlannedRequest request;
  std::vector<double> tokens;  // when each came, ascending
  double end = 0;
  RequestOutcome outcome = RequestOutcome::kUnfinished;
  absl::Status status;  // of kRefused and kFailed
};

// Hears of one request, from one thread at a time; OnEnd is the last call.
class RequestListener {
 public:
  virtual ~RequestListener() = default;
  virtual void OnTokens(int64_t count) = 0;
  // kCancelled: by CancelAll.
  virtual void OnEnd(const absl::Status& status) = 0;
};

// What answers: the engine, or a daemon.
class LoadClient {
 public:
  virtual ~LoadClient() = default;
  // Sends it and returns. `listener` stays until its OnEnd has returned; an error means that the
  // request was refused, and that `listener` hears nothing.
  virtual absl::Status Start(const PlannedRequest& request, RequestListener* listener) = 0;
  // What runs ends soon.
  virtual void CancelAll() = 0;
};

struct LoadResult {
  Clock::time_point began;
  std::vector<RequestRecord> records;  // in order of arrival
};

// Runs the whole load on the caller's thread and returns when every request has ended. With rates,
// a request is sent when it is due, whatever runs, and its times count from when it was due. With
// streams, all that runs at the end of the duration is cancelled.
LoadResult RunLoad(const LoadPlan& plan, LoadClient& client);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_LOAD_DRIVER_H_
