#include "server/rpc/sample_group.h"

#include <utility>

#include "engine/core/status_macros.h"
#include "server/rpc/calls.h"
#include "server/rpc/generate_request.h"
#include "server/rpc/generate_response.h"

namespace lorad::server {

class SampleGroup::Sample : public GenerateSink {
 public:
  Sample(std::shared_ptr<SampleGroup> group, int index) : group_(std::move(group)), index_(index) {}

  void OnDelta(GenerateDelta delta) override { group_->Send(index_, ToProto(std::move(delta))); }
  void OnFinish(const GenerateResult& result) override { group_->Finish(index_, result); }
  void OnError(const absl::Status& status) override { group_->End(status); }

 private:
  const std::shared_ptr<SampleGroup> group_;
  const int index_;
};

absl::Status SampleGroup::Prepare(const v1::GenerateRequest& request) {
  RETURN_IF_ERROR(CheckNotDraining(*services_));
  ASSIGN_OR_RETURN(count_, SampleCount(request, services_->facts->max_queued_requests));
  ASSIGN_OR_RETURN(request_, ToEngine(request, *services_->engine));
  ASSIGN_OR_RETURN(ResolvedAdapter adapter, services_->adapters->Resolve(request.adapter()));
  adapter_ref_ = std::move(adapter.ref);
  request_.adapter_id = std::move(adapter.id);
  return absl::OkStatus();
}

absl::Status SampleGroup::Submit(absl::Time deadline) {
  RETURN_IF_ERROR(CheckNotDraining(*services_));  // it may be long after Prepare
  std::vector<Submission> submissions;
  for (int i = 0; i < count_; ++i) {
    submissions.push_back({request_, std::make_shared<Sample>(shared_from_this(), i)});
    SamplingParams& sampling = submissions.back().request.sampling;
    sampling.seed = SampleSeed(sampling.seed, i);
  }
  absl::StatusOr<std::vector<RequestId>> ids =
      services_->engine->GenerateAll(std::move(submissions), deadline);
  if (!ids.ok()) {
    RETURN_IF_ERROR(CheckNotDraining(*services_));  // the better reason, if it began meanwhile
    return AtQueue(ids.status());
  }
  bool cancel;
  {
    absl::MutexLock lock(&mu_);
    ids_ = *ids;
    cancel = cancel_;
  }
  if (!cancel) return absl::OkStatus();
  for (const RequestId id : *ids) services_->engine->Cancel(id);
  return absl::OkStatus();
}

void SampleGroup::Cancel() {
  std::vector<RequestId> ids;
  {
    absl::MutexLock lock(&mu_);
    if (cancel_) return;
    cancel_ = true;
    ids = ids_;
  }
  for (const RequestId id : ids) services_->engine->Cancel(id);
}

void SampleGroup::Send(int index, v1::GenerateResponse response) {
  if (ended_) return;
  response.set_index(index);
  response.set_adapter(adapter_ref_);
  if (const auto receiver = receiver_.lock()) receiver->OnResponse(std::move(response));
}

void SampleGroup::Finish(int index, const GenerateResult& result) {
  absl::Status status = StatusOf(result.finish_reason);
  if (result.finish_reason == FinishReason::kCancelled) {
    absl::MutexLock lock(&mu_);
    // If not the caller's doing, the drain ran out of time: it may ask the next server.
    const absl::Status draining = CheckNotDraining(*services_);
    if (!cancel_ && !draining.ok()) status = draining;
  }
  if (!status.ok()) return End(status);
  v1::GenerateResponse response;
  *response.mutable_finish() = ToProto(result);
  Send(index, std::move(response));
  if (++finished_ == count_) End(absl::OkStatus());
}

void SampleGroup::End(const absl::Status& status) {
  if (ended_) return;
  ended_ = true;
  if (!status.ok()) Cancel();
  if (const auto receiver = receiver_.lock()) receiver->OnEnd(status);
}

}  // namespace lorad::server
