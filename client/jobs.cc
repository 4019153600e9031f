#include "client/jobs.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/list_all.h"
#include "client/status.h"
#include "engine/core/status_macros.h"
#include "grpcpp/grpcpp.h"
#include "lorad/v1/job_service.grpc.pb.h"

namespace lorad::client {
namespace {

absl::Status CheckSeq(int64_t expected, int64_t got) {
  if (got == expected) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the server sent event ", got, " where event ", expected, " was due"));
}

// A reader that was too slow is told so, and may come back from where it is.
bool MayReconnect(const absl::Status& status) {
  return IsTransportFailure(status) || absl::IsResourceExhausted(status);
}

}  // namespace

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

absl::StatusOr<v1::Job> JobClient::Submit(v1::SubmitJobRequest request) {
  if (request.request_id().empty()) request.set_request_id(NewRequestId());
  const auto stub = v1::JobService::NewStub(connection_->channel());
  ASSIGN_OR_RETURN(auto reply,
                   connection_->Unary<v1::SubmitJobResponse>(
                       {.idempotent = true, .work = true}, [&](auto* context, auto* out) {
                         return stub->Submit(context, request, out);
                       }));
  return std::move(*reply.mutable_job());
}

absl::StatusOr<v1::Job> JobClient::Get(const std::string& job_id) {
  v1::GetJobRequest request;
  request.set_job_id(job_id);
  const auto stub = v1::JobService::NewStub(connection_->channel());
  return connection_->Unary<v1::Job>({.idempotent = true}, [&](auto* context, auto* out) {
    return stub->Get(context, request, out);
  });
}

absl::StatusOr<std::vector<v1::Job>> JobClient::List(const std::vector<v1::JobState>& states) {
  v1::ListJobsRequest request;
  for (const v1::JobState state : states) request.add_states(state);
  const auto stub = v1::JobService::NewStub(connection_->channel());
  return ListAll<v1::Job, v1::ListJobsResponse>(
      *connection_, request,
      [&](auto* context, const auto& page, auto* out) { return stub->List(context, page, out); },
      [](auto& reply) { return reply.mutable_jobs(); });
}

absl::Status JobClient::WatchOnce(const WatchJobOptions& options, WatchState& state) {
  v1::WatchJobRequest request;
  request.set_job_id(options.job_id);
  request.set_after_seq(state.seq);
  const auto stub = v1::JobService::NewStub(connection_->channel());
  return connection_->Run({.stream = true}, [&](grpc::ClientContext& context) {
    const auto reader = stub->Watch(&context, request);
    v1::WatchJobResponse reply;
    while (state.handler.ok() && reader->Read(&reply)) {
      const v1::JobEvent& event = reply.event();
      state.handler = CheckSeq(state.seq + 1, event.seq());
      if (!state.handler.ok()) break;
      state.seq = event.seq();
      state.final = event.has_state_change() && IsFinal(event.state_change().to());
      state.handler = options.on_event(event);
    }
    if (!state.handler.ok()) context.TryCancel();
    return reader->Finish();
  });
}

absl::Status JobClient::Watch(const WatchJobOptions& options) {
  WatchState state{.seq = options.after_seq};
  absl::Time last_contact = absl::Now();
  bool told = false;
  while (true) {
    const int64_t before = state.seq;
    const absl::Status status = WatchOnce(options, state);
    RETURN_IF_ERROR(state.handler);
    if (state.final) return absl::OkStatus();
    if (connection_->cancelled()) return absl::CancelledError("cancelled by the caller");
    if (status.ok()) {
      // Nothing was left to send: `after_seq` is at or past the last event of a finished job.
      ASSIGN_OR_RETURN(const v1::Job job, Get(options.job_id));
      if (IsFinal(job.state()) && state.seq >= job.last_seq()) return absl::OkStatus();
    } else if (!MayReconnect(status)) {
      return status;
    }
    if (state.seq > before || status.ok()) {
      last_contact = absl::Now();
      told = false;
    }
    if (absl::Now() - last_contact > options.reconnect_for) return status;
    if (!told && !status.ok() && options.on_disconnect) options.on_disconnect(status);
    told = true;
    if (!connection_->Sleep(connection_->options().max_backoff)) {
      return absl::CancelledError("cancelled by the caller");
    }
    if (absl::Now() >= connection_->options().deadline) return status;
  }
}

absl::StatusOr<v1::Job> JobClient::Cancel(const std::string& job_id) {
  v1::CancelJobRequest request;
  request.set_job_id(job_id);
  const auto stub = v1::JobService::NewStub(connection_->channel());
  return connection_->Unary<v1::Job>({.idempotent = true}, [&](auto* context, auto* out) {
    return stub->Cancel(context, request, out);
  });
}

absl::StatusOr<std::vector<v1::Checkpoint>> JobClient::ListCheckpoints(const std::string& job_id) {
  v1::ListCheckpointsRequest request;
  request.set_job_id(job_id);
  const auto stub = v1::JobService::NewStub(connection_->channel());
  return ListAll<v1::Checkpoint, v1::ListCheckpointsResponse>(
      *connection_, request,
      [&](auto* context, const auto& page, auto* out) {
        return stub->ListCheckpoints(context, page, out);
      },
      [](auto& reply) { return reply.mutable_checkpoints(); });
}

}  // namespace lorad::client
