#include "server/rpc/generate_batch_call.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "server/base/errors.h"
#include "server/rpc/calls.h"
#include "server/rpc/generate_response.h"

namespace lorad::server {
namespace {

constexpr int kMaxRequests = 4096;
// An answer is sent in parts of about this size, so that no message comes near the limit.
constexpr int64_t kPartBytes = 64 << 10;
// How soon a full queue is tried again when nothing of the batch's own ends before.
constexpr absl::Duration kRetry = absl::Milliseconds(50);

absl::Status CheckSize(const v1::GenerateBatchRequest& request) {
  if (request.requests_size() == 0) return FieldError("requests", "at least one is needed");
  if (request.requests_size() <= kMaxRequests) return absl::OkStatus();
  return FieldError("requests", absl::StrCat(request.requests_size(), " requests, at most ",
                                             kMaxRequests, " fit one batch; split it"));
}

}  // namespace

// Gathers each answer until it is complete or makes a part.
class GenerateBatchCall::Item : public SampleGroup::Receiver {
 public:
  Item(std::weak_ptr<GenerateBatchCall> call, int index, int answers)
      : index(index), answers(answers), call_(std::move(call)), parts_(answers) {}

  void OnResponse(v1::GenerateResponse response) override {
    Part& part = parts_[response.index()];
    if (part.bytes == 0) {
      part.response.set_adapter(response.adapter());
      part.response.set_index(response.index());
    }
    part.bytes += ApproximateBytes(response);
    server::Append(part.response, std::move(response));
    if (!part.response.has_finish() && part.bytes < kPartBytes) return;
    v1::GenerateBatchResponse message;
    message.set_request_index(index);
    *message.mutable_response() = std::exchange(part, {}).response;
    if (const auto call = call_.lock()) call->Push(std::move(message));
  }
  void OnEnd(const absl::Status& status) override {
    if (const auto call = call_.lock()) call->EndItem(*this, status);
  }

  const int index;
  const int answers;
  std::shared_ptr<SampleGroup> samples;  // set before it begins
  bool prepared = false;                 // only in Submit

 private:
  struct Part {
    v1::GenerateResponse response;
    int64_t bytes = 0;
  };

  const std::weak_ptr<GenerateBatchCall> call_;
  std::vector<Part> parts_;  // by answer; the engine thread's
};

GenerateBatchCall::GenerateBatchCall(const Services* services, grpc::CallbackServerContext* context,
                                     const v1::GenerateBatchRequest& request)
    : PushCall(context, *services->writers,
               {.backlog_bytes = std::numeric_limits<int64_t>::max(),
                .stall = services->facts->max_stream_stall}),
      services_(services),
      request_(request),
      deadline_(absl::FromChrono(context->deadline())),
      max_in_engine_(services->facts->max_running_requests +
                     services->facts->max_running_requests / 4) {}

void GenerateBatchCall::Start() {
  Hold();
  if (const absl::Status status = CheckSize(request_); !status.ok()) return End(status);
  {
    absl::MutexLock lock(&mu_);
    submitting_ = true;
  }
  const auto self = std::static_pointer_cast<GenerateBatchCall>(shared_from_this());
  if (!services_->pool->TrySchedule([self] { self->Submit(); })) End(PoolOverloaded());
}

void GenerateBatchCall::OnStop() {
  std::map<int, std::shared_ptr<Item>> begun;
  {
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    begun = std::exchange(begun_, {});
    refused_ = nullptr;
  }
  for (const auto& [index, item] : begun) item->samples->Cancel();
  End(absl::CancelledError("the batch was cancelled"));
}

void GenerateBatchCall::Wake() {
  absl::MutexLock lock(&mu_);
  again_ = true;
  const bool left = refused_ != nullptr || next_ < request_.requests_size();
  if (submitting_ || stopped_ || !left) return;
  submitting_ = true;
  const auto self = std::static_pointer_cast<GenerateBatchCall>(shared_from_this());
  services_->pool->Schedule([self] { self->Submit(); });
}

void GenerateBatchCall::Submit() {
  while (true) {
    {
      absl::MutexLock lock(&mu_);
      again_ = false;
    }
    std::shared_ptr<Item> item = NextItem();
    if (item != nullptr && SubmitItem(item)) continue;
    absl::MutexLock lock(&mu_);
    submitting_ = again_ && !stopped_;
    if (!submitting_) return;
  }
}

std::shared_ptr<GenerateBatchCall::Item> GenerateBatchCall::NextItem() {
  const bool reader_is_behind = waiting_bytes() > services_->facts->max_stream_backlog_bytes;
  absl::MutexLock lock(&mu_);
  if (stopped_ || reader_is_behind) return nullptr;
  if (refused_ != nullptr) return std::exchange(refused_, nullptr);
  if (next_ == request_.requests_size()) return nullptr;
  // What is out of range fails when it is prepared.
  const int answers = std::max(1, std::min(request_.requests(next_).n(), 16));
  if (in_engine_ > 0 && in_engine_ + answers > max_in_engine_) return nullptr;
  const auto self = std::static_pointer_cast<GenerateBatchCall>(shared_from_this());
  auto item = std::make_shared<Item>(self, next_, answers);
  item->samples = std::make_shared<SampleGroup>(services_, item);
  in_engine_ += answers;
  begun_[next_++] = item;
  return item;
}

bool GenerateBatchCall::SubmitItem(const std::shared_ptr<Item>& item) {
  absl::Status status;
  if (!item->prepared) status = item->samples->Prepare(request_.requests(item->index));
  item->prepared = status.ok();
  if (status.ok()) status = item->samples->Submit(deadline_);
  if (status.ok()) return true;
  if (!item->prepared || !absl::IsResourceExhausted(status)) {
    EndItem(*item, status);
    return true;
  }
  absl::MutexLock lock(&mu_);
  if (stopped_) return false;
  refused_ = item;
  const auto self = std::static_pointer_cast<GenerateBatchCall>(shared_from_this());
  retry_.Set(absl::Now() + kRetry, [weak = std::weak_ptr<GenerateBatchCall>(self)] {
    if (const auto call = weak.lock()) call->Wake();
  });
  return false;
}

void GenerateBatchCall::EndItem(Item& item, const absl::Status& status) {
  if (!status.ok()) {
    v1::GenerateBatchResponse message;
    message.set_request_index(item.index);
    *message.mutable_error() = ToProto(status);
    Push(std::move(message));
  }
  bool last;
  {
    absl::MutexLock lock(&mu_);
    in_engine_ -= item.answers;
    last = ++ended_ == request_.requests_size();
    begun_.erase(item.index);
  }
  last ? End(absl::OkStatus()) : Wake();
}

int64_t GenerateBatchCall::BytesOf(const v1::GenerateBatchResponse& response) const {
  return ApproximateBytes(response.response()) +
         static_cast<int64_t>(response.has_error() ? response.error().ByteSizeLong() : 0);
}

}  // namespace lorad::server
