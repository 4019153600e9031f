#include "tests/bench/load_driver.h"

#include <list>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorad::bench {
namespace {

// A daemon says only at the end that its queue was full.
RequestOutcome OutcomeOf(const absl::Status& status, bool no_tokens) {
  if (status.ok()) return RequestOutcome::kCompleted;
  if (absl::IsCancelled(status)) return RequestOutcome::kUnfinished;
  if (absl::IsResourceExhausted(status) && no_tokens) return RequestOutcome::kRefused;
  return RequestOutcome::kFailed;
}

class Driver {
 public:
  Driver(const LoadPlan& plan, LoadClient& client)
      : plan_(plan), client_(client), source_(plan), began_(Clock::now()) {}

  LoadResult Run() {
    plan_.streams > 0 ? SendStreams() : SendArrivals();
    if (plan_.streams > 0 || !WaitUntilIdle(absl::Seconds(plan_.drain_timeout)))
      client_.CancelAll();
    WaitUntilIdle(absl::InfiniteDuration());
    LoadResult result{began_, {}};
    for (Request& request : requests_) result.records.push_back(std::move(request.record));
    return result;
  }

 private:
  class Request final : public RequestListener {
   public:
    Request(Driver& driver, PlannedRequest planned) : driver_(driver) {
      record.request = planned;
      record.tokens.reserve(static_cast<size_t>(planned.output_tokens));
    }
    void OnTokens(int64_t count) override {
      record.tokens.insert(record.tokens.end(), static_cast<size_t>(count), driver_.Now());
    }
    void OnEnd(const absl::Status& status) override {
      record.end = driver_.Now();
      record.outcome = OutcomeOf(status, record.tokens.empty());
      if (status.code() != absl::StatusCode::kCancelled) record.status = status;
      driver_.Ended();
    }

    RequestRecord record;

   private:
    Driver& driver_;
  };

  double Now() const { return std::chrono::duration<double>(Clock::now() - began_).count(); }

  void SendArrivals() {
    while (const std::optional<PlannedRequest> next = source_.Next()) {
      std::this_thread::sleep_until(began_ + std::chrono::duration_cast<Clock::duration>(
                                                 std::chrono::duration<double>(next->at)));
      Send(*next);
    }
  }

  void SendStreams() {
    const double end = plan_.seconds();
    while (WaitForStream(end - Now())) {
      PlannedRequest next = *source_.Next();
      next.at = Now();
      if (next.at >= end) return;
      Send(next);
    }
  }

  void Send(const PlannedRequest& planned) {
    Request& request = requests_.emplace_back(*this, planned);
    {
      absl::MutexLock lock(&mu_);
      ++running_;
    }
    const absl::Status status = client_.Start(planned, &request);
    if (status.ok()) return;
    request.record.outcome = RequestOutcome::kRefused;
    request.record.status = status;
    request.record.end = Now();
    Ended();
    // A stream that was refused would ask again at once, and for ever.
    if (plan_.streams > 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }

  // The last call of a request: the driver may be gone after it.
  void Ended() {
    absl::MutexLock lock(&mu_);
    --running_;
  }

  // False: the time is over.
  bool WaitForStream(double seconds) {
    absl::MutexLock lock(&mu_);
    const auto free = [this]()
                          ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return running_ < plan_.streams; };
    return mu_.AwaitWithTimeout(absl::Condition(&free), absl::Seconds(seconds)) && seconds > 0;
  }

  bool WaitUntilIdle(absl::Duration timeout) {
    absl::MutexLock lock(&mu_);
    const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return running_ == 0; };
    return mu_.AwaitWithTimeout(absl::Condition(&idle), timeout);
  }

  const LoadPlan& plan_;
  LoadClient& client_;
  RequestSource source_;
  const Clock::time_point began_;
  std::list<Request> requests_;  // at places that stay
  absl::Mutex mu_;
  int64_t running_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace

LoadResult RunLoad(const LoadPlan& plan, LoadClient& client) { return Driver(plan, client).Run(); }

}  // namespace lorad::bench
