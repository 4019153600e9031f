#include "server/rpc/generate_call.h"

#include <utility>

#include "engine/core/status_macros.h"
#include "server/rpc/calls.h"
#include "server/rpc/generate_response.h"

namespace lorad::server {

GenerateCall::GenerateCall(const Services* services, grpc::CallbackServerContext* context,
                           const v1::GenerateRequest* request)
    : PushCall(context, *services->writers,
               {.backlog_bytes = services->facts->max_stream_backlog_bytes,
                .stall = services->facts->max_stream_stall}),
      services_(services),
      request_(request),
      deadline_(absl::FromChrono(context->deadline())) {}

void GenerateCall::Start() {
  Hold();
  const auto self = std::static_pointer_cast<GenerateCall>(shared_from_this());
  samples_ = std::make_shared<SampleGroup>(services_, self);
  const bool scheduled = services_->pool->TrySchedule([self] {
    const absl::Status status = self->Submit();
    if (!status.ok()) self->End(status);
  });
  if (!scheduled) End(PoolOverloaded());
}

absl::Status GenerateCall::Submit() {
  RETURN_IF_ERROR(samples_->Prepare(*request_));
  return samples_->Submit(deadline_);
}

int64_t GenerateCall::BytesOf(const v1::GenerateResponse& response) const {
  return ApproximateBytes(response);
}

bool GenerateCall::SameAnswer(const v1::GenerateResponse& a, const v1::GenerateResponse& b) const {
  return a.index() == b.index();
}

void GenerateCall::Append(v1::GenerateResponse& last, v1::GenerateResponse more) const {
  server::Append(last, std::move(more));
}

}  // namespace lorad::server
