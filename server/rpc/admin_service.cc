#include "server/rpc/admin_service.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/alarm.h"
#include "server/base/errors.h"
#include "server/base/listen_address.h"
#include "server/base/proto_time.h"
#include "server/rpc/calls.h"

namespace lorad::server {
namespace {

constexpr absl::Duration kMinInterval = absl::Milliseconds(100);
constexpr absl::Duration kMaxInterval = absl::Hours(1);

void FillModel(const ModelInfo& model, v1::ModelInfo& proto) {
  proto.set_name(model.name);
  proto.set_architecture(model.architecture);
  proto.set_digest(model.digest);
  proto.set_quant(model.quant);
  proto.set_parameters(model.parameters);
  proto.set_weight_bytes(model.weight_bytes);
  proto.set_vocab_size(model.vocab_size);
  proto.set_hidden_size(model.hidden_size);
  proto.set_num_layers(model.num_layers);
  proto.set_context_tokens(model.context_tokens);
  proto.set_has_tokenizer(model.has_tokenizer);
  proto.set_device(model.device);
}

void FillStats(const Services& services, v1::ServerStats& proto) {
  const EngineStats stats = services.engine->Stats();
  *proto.mutable_time() = ToProto(absl::Now());
  proto.set_queued_requests(stats.queued_requests);
  proto.set_running_requests(stats.running_requests);
  proto.set_kv_pages(stats.kv_pages);
  proto.set_kv_pages_used(stats.kv_pages_used);
  proto.set_kv_page_tokens(stats.kv_page_tokens);
  for (int tag = 0; tag < kNumMemoryTags; ++tag) {
    v1::MemoryUse* use = proto.add_memory();
    use->set_tag(Name(static_cast<MemoryTag>(tag)));
    use->set_used_bytes(stats.memory[tag].used_bytes);
    use->set_peak_bytes(stats.memory[tag].peak_bytes);
    use->set_limit_bytes(stats.memory[tag].limit_bytes);
  }
  proto.set_adapters_device(stats.adapters_device);
  proto.set_adapters_host(stats.adapters_host);
  proto.set_adapters_disk(stats.adapters_disk);
  proto.set_running_job_id(services.jobs->RunningJob());
  proto.set_queued_jobs(services.jobs->QueuedJobs());
  proto.set_prompt_tokens_total(services.totals->prompt_tokens);
  proto.set_generated_tokens_total(services.totals->generated_tokens);
  proto.set_requests_total(services.totals->requests);
  proto.set_trained_tokens_total(services.totals->trained_tokens);
}

class StatsCall : public PullCall<v1::ServerStats> {
 public:
  StatsCall(const Services* services, absl::Duration interval)
      : PullCall(services->pool), services_(services), interval_(interval) {}

 private:
  absl::StatusOr<Next> Produce(v1::ServerStats& response) override {
    if (services_->draining->load()) return CheckNotDraining(*services_);
    const absl::Time now = absl::Now();
    if (now >= next_) {
      next_ = now + interval_;
      FillStats(*services_, response);
      return Next::kMessage;
    }
    std::weak_ptr<PullCall> self = weak_from_this();
    alarm_ = std::make_unique<grpc::Alarm>();
    alarm_->Set(absl::ToChronoTime(next_), [self](bool) {
      if (auto call = self.lock()) call->Wake();
    });
    return Next::kWait;
  }
  void Close() override { alarm_.reset(); }

  const Services* const services_;
  const absl::Duration interval_;
  absl::Time next_ = absl::InfinitePast();
  std::unique_ptr<grpc::Alarm> alarm_;
};

}  // namespace

grpc::ServerUnaryReactor* AdminServiceImpl::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetServerInfoRequest*,
                                                          v1::ServerInfo* response) {
  const ServerFacts& facts = *services_->facts;
  response->set_version(facts.version);
  *response->mutable_start_time() = ToProto(facts.start_time);
  response->set_grpc_address(WithPort(facts.grpc_listen, facts.grpc_port));
  response->set_http_address(facts.http_address);
  FillModel(services_->engine->model(), *response->mutable_model());
  v1::ServerLimits& limits = *response->mutable_limits();
  limits.set_max_message_bytes(facts.max_message_bytes);
  limits.set_max_dataset_bytes(services_->datasets->max_bytes());
  limits.set_max_adapter_bytes(facts.max_adapter_bytes);
  limits.set_max_queued_jobs(facts.max_queued_jobs);
  limits.set_max_queued_requests(facts.max_queued_requests);
  limits.set_max_running_requests(facts.max_running_requests);
  if (facts.itl_target > absl::ZeroDuration())
    *limits.mutable_itl_target() = ToProto(facts.itl_target);
  response->set_draining(services_->draining->load());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<v1::ServerStats>* AdminServiceImpl::StreamStats(
    grpc::CallbackServerContext*, const v1::StreamStatsRequest* request) {
  absl::Duration interval = absl::Seconds(1);
  if (request->has_interval()) {
    interval = absl::Seconds(request->interval().seconds()) +
               absl::Nanoseconds(request->interval().nanos());
  }
  if (interval < kMinInterval || interval > kMaxInterval) {
    return new FailedWriteCall<v1::ServerStats>(  // deletes itself
        FieldError("interval", absl::StrCat(absl::FormatDuration(interval), " is not in ",
                                            absl::FormatDuration(kMinInterval), "..",
                                            absl::FormatDuration(kMaxInterval))));
  }
  auto call = std::make_shared<StatsCall>(services_, interval);
  call->Start();
  return call.get();  // holds itself
}

}  // namespace lorad::server
