#include "server/rpc/job_service.h"

#include <deque>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/core/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/calls.h"
#include "server/rpc/paging.h"
#include "server/store/keys.h"

namespace lorad::server {
namespace {

// Events read from the store at once.
constexpr int kEventBatch = 256;

// Follows the stored events of a job; the store's watch only says that there are new ones.
class WatchCall : public PullCall<v1::WatchJobResponse> {
 public:
  WatchCall(const Services* services, const v1::WatchJobRequest& request)
      : PullCall(services->pool),
        services_(services),
        job_id_(request.job_id()),
        seq_(request.after_seq()) {}

 private:
  absl::StatusOr<Next> Produce(v1::WatchJobResponse& response) override {
    if (subscription_ == nullptr) RETURN_IF_ERROR(Begin());
    if (batch_.empty()) {
      ASSIGN_OR_RETURN(const JobEvents events,
                       ReadEvents(*services_->store, job_id_, seq_, kEventBatch));
      batch_.assign(events.begin(), events.end());
    }
    if (batch_.empty()) {
      ASSIGN_OR_RETURN(const v1::Job job, ReadJob(*services_->store, job_id_));
      // The final event may have come between the two reads.
      const bool all_seen = IsFinal(job.state()) && seq_ >= job.last_seq();
      if (!all_seen && IsFinal(job.state())) return Produce(response);
      return all_seen ? Next::kEnd : Next::kWait;
    }
    *response.mutable_event() = std::move(batch_.front());
    batch_.pop_front();
    seq_ = response.event().seq();
    return Next::kMessage;
  }

  absl::Status Begin() {
    if (seq_ < 0) return FieldError("after_seq", absl::StrCat(seq_, " is negative"));
    RETURN_IF_ERROR(ReadJob(*services_->store, job_id_).status());
    // Only what comes from now on; the stored events are read after this.
    std::weak_ptr<PullCall> self = weak_from_this();
    ASSIGN_OR_RETURN(subscription_, services_->store->Watch(keys::EventPrefix(job_id_),
                                                            std::numeric_limits<int64_t>::max(),
                                                            [self](const WatchEvent&) {
                                                              if (auto call = self.lock())
                                                                call->Wake();
                                                            }));
    return absl::OkStatus();
  }

  // The store's thread may hold this object during a callback, but none runs after this: the
  // destructor, which ends the watch and so waits for that thread, never runs on it.
  void Close() override { subscription_.reset(); }

  const Services* const services_;
  const std::string job_id_;
  int64_t seq_;  // last one sent
  std::deque<v1::JobEvent> batch_;
  std::unique_ptr<Subscription> subscription_;
};

absl::StatusOr<int64_t> NumberFromToken(absl::string_view list, const std::string& token) {
  ASSIGN_OR_RETURN(const std::string position, DecodePageToken(list, token));
  int64_t number = 0;
  if (!position.empty() && !absl::SimpleAtoi(position, &number)) {
    return FieldError("page_token", "is not a next_page_token");
  }
  return number;
}

std::string TokenFromNumber(absl::string_view list, int64_t number) {
  return number == 0 ? std::string() : EncodePageToken(list, absl::StrCat(number));
}

}  // namespace

grpc::ServerUnaryReactor* JobServiceImpl::Submit(grpc::CallbackServerContext* context,
                                                 const v1::SubmitJobRequest* request,
                                                 v1::SubmitJobResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    RETURN_IF_ERROR(CheckNotDraining(*services_));
    ASSIGN_OR_RETURN(*response->mutable_job(), services_->jobs->Submit(*request));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* JobServiceImpl::Get(grpc::CallbackServerContext* context,
                                              const v1::GetJobRequest* request, v1::Job* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(*response, services_->jobs->Get(request->job_id()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* JobServiceImpl::List(grpc::CallbackServerContext* context,
                                               const v1::ListJobsRequest* request,
                                               v1::ListJobsResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    const std::string list = absl::StrCat("jobs ", absl::StrJoin(request->states(), ","));
    ASSIGN_OR_RETURN(const int limit, PageSize(request->page_size()));
    ASSIGN_OR_RETURN(int64_t position, NumberFromToken(list, request->page_token()));
    std::vector<v1::JobState> states;
    for (const int state : request->states()) states.push_back(static_cast<v1::JobState>(state));
    ASSIGN_OR_RETURN(const std::vector<v1::Job> page,
                     services_->jobs->List(states, limit, position));
    response->mutable_jobs()->Assign(page.begin(), page.end());
    response->set_next_page_token(TokenFromNumber(list, position));
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* JobServiceImpl::Watch(
    grpc::CallbackServerContext*, const v1::WatchJobRequest* request) {
  auto call = std::make_shared<WatchCall>(services_, *request);
  call->Start();
  return call.get();  // holds itself
}

grpc::ServerUnaryReactor* JobServiceImpl::Cancel(grpc::CallbackServerContext* context,
                                                 const v1::CancelJobRequest* request,
                                                 v1::Job* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(*response, services_->jobs->Cancel(request->job_id()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* JobServiceImpl::ListCheckpoints(grpc::CallbackServerContext* context,
                                                          const v1::ListCheckpointsRequest* request,
                                                          v1::ListCheckpointsResponse* response) {
  return RunUnary(context, services_->pool, [=, this]() -> absl::Status {
    const std::string list = absl::StrCat("checkpoints ", request->job_id());
    ASSIGN_OR_RETURN(const int limit, PageSize(request->page_size()));
    ASSIGN_OR_RETURN(int64_t position, NumberFromToken(list, request->page_token()));
    ASSIGN_OR_RETURN(const std::vector<v1::Checkpoint> page,
                     services_->jobs->ListCheckpoints(request->job_id(), limit, position));
    response->mutable_checkpoints()->Assign(page.begin(), page.end());
    response->set_next_page_token(TokenFromNumber(list, position));
    return absl::OkStatus();
  });
}

}  // namespace lorad::server
