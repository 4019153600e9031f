#include "engine/engine.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "engine/core/status_macros.h"
#include "engine/engine_device.h"
#include "engine/engine_memory.h"
#include "engine/engine_observer_relay.h"
#include "engine/engine_parts.h"
#include "engine/infer/constraint/constraint_compiler.h"
#include "engine/io/file.h"
#include "engine/io/tokenizer.h"
#include "engine/lora/store.h"
#include "engine/model/weights.h"
#include "engine/quant/quant.h"
#include "engine/sched/kv_adapter_memory.h"
#include "engine/sched/scheduler.h"
#include "engine/train/job.h"

namespace lorad {
namespace {

// Of page-locked memory at start: two adapters of rank 16 of an 8B model, with all linears.
constexpr int64_t kWarmAdapterBytes = int64_t{192} << 20;
// A page takes a driver milliseconds. A publication and its first request are through before.
constexpr absl::Duration kLockAfter = absl::Milliseconds(500);
constexpr absl::Duration kLockPause = absl::Milliseconds(50);

AdapterInfo ToInfo(const AdapterSummary& summary) {
  AdapterInfo info;
  info.id = summary.id;
  info.r = summary.max_rank;
  info.lora_alpha = summary.config.lora_alpha;
  info.use_rslora = summary.config.use_rslora;
  info.target_modules = summary.config.target_modules;
  info.adapted_modules = summary.modules;
  info.parameters = summary.parameters;
  info.device_bytes = summary.device_bytes;
  return info;
}

AdapterTier ToTier(ResidentTier tier) {
  if (tier == ResidentTier::kDevice) return AdapterTier::kDevice;
  return tier == ResidentTier::kHost ? AdapterTier::kHost : AdapterTier::kDisk;
}

std::string LastPart(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

class EngineImpl final : public Engine {
 public:
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineConfig& config);
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineConfig& config,
                                                        EngineParts parts);
  ~EngineImpl() override;

  const ModelInfo& model() const override { return info_; }
  const Tokenizer* tokenizer() const override { return tokenizer_.get(); }
  EngineStats Stats() const override;

  absl::Status CheckConstraint(const ConstraintSpec& constraint) const override {
    return constraints_->Compile(constraint).status();
  }
  absl::StatusOr<RequestId> Generate(GenerateRequest request, absl::Time deadline,
                                     std::shared_ptr<GenerateSink> sink) override {
    return scheduler_->Generate(std::move(request), deadline, std::move(sink));
  }
  absl::StatusOr<std::vector<RequestId>> GenerateAll(std::vector<Submission> submissions,
                                                     absl::Time deadline) override {
    return scheduler_->GenerateAll(std::move(submissions), deadline);
  }
  void Cancel(RequestId id) override { scheduler_->Cancel(id); }
  absl::Status Score(ScoreRequest request,
                     std::function<void(absl::StatusOr<ScoreResult>)> done) override {
    return scheduler_->Score(std::move(request), std::move(done));
  }

  absl::StatusOr<AdapterInfo> InspectAdapter(const std::string& peft_dir) const override {
    ASSIGN_OR_RETURN(const AdapterSummary summary, adapters_->Inspect(peft_dir));
    return ToInfo(summary);
  }
  absl::StatusOr<AdapterInfo> RegisterAdapter(const std::string& peft_dir) override {
    ASSIGN_OR_RETURN(const AdapterSummary summary, adapters_->Register(peft_dir));
    return ToInfo(summary);
  }
  absl::StatusOr<AdapterInfo> FindAdapter(const std::string& id) const override {
    ASSIGN_OR_RETURN(const AdapterSummary summary, adapters_->Describe(id));
    return ToInfo(summary);
  }
  absl::Status UnregisterAdapter(const std::string& id) override {
    return adapters_->Unregister(id);
  }
  absl::Status LoadAdapter(const std::string& id) override {
    return RunAdapterTask(AdapterTask::Kind::kLoad, id, absl::InfiniteFuture());
  }
  absl::Status UnloadAdapter(const std::string& id, absl::Time deadline) override {
    return RunAdapterTask(AdapterTask::Kind::kUnload, id, deadline);
  }
  std::vector<AdapterResidency> Adapters() const override;

  absl::StatusOr<DatasetReport> ValidateDataset(const std::string& path,
                                                int32_t max_seq_length) const override {
    return ValidateDatasetFile(path, max_seq_length, model_->config(), tokenizer_.get());
  }
  absl::StatusOr<TrainingPlan> PlanTraining(const TrainingSpec& spec) const override;
  absl::StatusOr<TrainingId> StartTraining(const TrainingSpec& spec,
                                           std::shared_ptr<TrainingSink> sink) override;
  void StopTraining(TrainingId id, bool checkpoint) override {
    scheduler_->StopTraining({id, checkpoint});
  }

  void Shutdown(absl::Time deadline) override;

 private:
  EngineImpl(const EngineConfig& config, SelectedDevice device)
      : config_(config), relay_(config.observer), device_(std::move(device)) {}

  absl::Status LoadModel(const QuantSpec& quant);
  void DescribeModel();
  // Memory, serving and the engine's thread, over model_. `read` as in AdapterStoreOptions.
  absl::Status Start(AdapterReader read);
  absl::Status BuildServing(const EngineMemory& memory, AdapterReader read);
  absl::Status RunAdapterTask(AdapterTask::Kind kind, const std::string& id, absl::Time deadline);

  const EngineConfig config_;
  ObserverRelay relay_;
  const SelectedDevice device_;
  std::shared_ptr<const Model> model_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<ConstraintCompiler> constraints_;
  ModelInfo info_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<KvAdapterMemory> adapter_memory_;
  std::unique_ptr<AdapterStore> adapters_;
  std::unique_ptr<Scheduler> scheduler_;

  absl::Mutex thread_mu_;
  std::thread thread_ ABSL_GUARDED_BY(thread_mu_);  // the engine thread
};

absl::StatusOr<std::unique_ptr<Engine>> EngineImpl::Create(const EngineConfig& config) {
  RETURN_IF_ERROR(ValidateEngineConfig(config));
  ASSIGN_OR_RETURN(const QuantSpec quant, ParseQuantSpec(config.quant));
  ASSIGN_OR_RETURN(SelectedDevice device, SelectDevice(config.device, config.num_threads));
  std::unique_ptr<EngineImpl> engine(new EngineImpl(config, std::move(device)));
  RETURN_IF_ERROR(engine->LoadModel(quant));
  RETURN_IF_ERROR(engine->Start(/*read=*/{}));
  return engine;
}

absl::StatusOr<std::unique_ptr<Engine>> EngineImpl::Create(const EngineConfig& config,
                                                           EngineParts parts) {
  RETURN_IF_ERROR(ValidateEngineConfig(config));
  std::unique_ptr<EngineImpl> engine(new EngineImpl(config, std::move(parts.device)));
  engine->model_ = std::move(parts.model);
  RETURN_IF_ERROR(engine->Start(std::move(parts.read_adapter)));
  return engine;
}

absl::Status EngineImpl::Start(AdapterReader read) {
  DescribeModel();
  ASSIGN_OR_RETURN(const EngineMemory memory,
                   PlanMemory(config_, model_->config(), model_->quant(), *device_.backend));
  RETURN_IF_ERROR(BuildServing(memory, std::move(read)));
  absl::MutexLock lock(&thread_mu_);
  thread_ = std::thread([scheduler = scheduler_.get()] { scheduler->Run(); });
  return absl::OkStatus();
}

absl::Status EngineImpl::LoadModel(const QuantSpec& quant) {
  Backend& backend = *device_.backend;
  // The plan is made before memory is taken: a model that does not fit is refused at once.
  ASSIGN_OR_RETURN(const ModelConfig model_config, LoadModelConfig(config_.model_dir));
  RETURN_IF_ERROR(PlanMemory(config_, model_config, quant, backend).status());
  ASSIGN_OR_RETURN(info_.config_json, ReadFile(config_.model_dir + "/config.json"));
  ASSIGN_OR_RETURN(
      model_, Model::Load(config_.model_dir, quant, backend, {.quant_head = config_.quant_head}));
  absl::StatusOr<std::unique_ptr<const Tokenizer>> tokenizer = Tokenizer::Load(config_.model_dir);
  if (tokenizer.ok()) {
    tokenizer_ = *std::move(tokenizer);
  } else if (!absl::IsNotFound(tokenizer.status())) {
    return tokenizer.status();
  }
  return absl::OkStatus();
}

void EngineImpl::DescribeModel() {
  const ModelConfig& config = model_->config();
  info_.name = LastPart(config_.model_dir);
  info_.architecture = config.architecture;
  info_.digest = model_->digest();
  info_.quant = FormatQuantSpec(model_->quant());
  info_.quant_spec = model_->quant();
  info_.parameters = model_->num_parameters();
  info_.weight_bytes = model_->weight_bytes();
  info_.vocab_size = static_cast<int32_t>(config.vocab_size);
  info_.hidden_size = static_cast<int32_t>(config.hidden_size);
  info_.num_layers = static_cast<int32_t>(config.num_layers);
  info_.has_tokenizer = tokenizer_ != nullptr;
  info_.device = device_.backend->info().name;
  info_.device_kind = device_.backend->info().kind;
  info_.device_note = device_.note;
}

absl::Status EngineImpl::BuildServing(const EngineMemory& memory, AdapterReader read) {
  Backend& backend = *device_.backend;
  backend.allocator().SetLimit(MemoryTag::kTraining, memory.training);
  ASSIGN_OR_RETURN(cache_, KvCache::Create(memory.kv, backend));
  ASSIGN_OR_RETURN(runner_, Runner::Create(model_, backend, *cache_, memory.runner));
  for (const MemoryTag tag : {MemoryTag::kWeights, MemoryTag::kKvCache, MemoryTag::kWorkspace})
    backend.allocator().SetLimit(tag, backend.allocator().Usage(tag).used_bytes);

  adapter_memory_ = std::make_unique<KvAdapterMemory>(*cache_, backend);
  AdapterStoreOptions store;
  store.host_limit_bytes = config_.adapter_host_memory_bytes;
  store.max_adapter_bytes = std::max<int64_t>(memory.adapters, 1);  // 0 would mean any
  if (backend.info().kind != "cpu") store.warm_host_bytes = kWarmAdapterBytes;
  store.lock_after = kLockAfter;
  store.lock_pause = kLockPause;
  store.max_rank = kMaxAdapterRank;
  store.wake = [this] { scheduler_->Wake(); };
  store.observer = &relay_;
  store.read = std::move(read);
  adapters_ =
      std::make_unique<AdapterStore>(model_->config(), backend, *adapter_memory_, std::move(store));

  SchedulerOptions options;
  options.serving.max_running = config_.max_running_requests;
  options.serving.max_batch_tokens = config_.max_batch_tokens;
  options.serving.prompt_kind = memory.prompt_kind;
  options.serving.chunk_tokens = memory.chunk_tokens;
  options.serving.row_chunk_tokens = memory.row_chunk_tokens;
  options.serving.observer = &relay_;
  options.training.itl_target = absl::Milliseconds(config_.itl_target_ms);
  options.training.patience_steps = config_.training_patience_steps;
  options.max_queued = config_.max_queued_requests;
  options.limits.vocab = model_->config().vocab_size;
  options.limits.context_tokens = memory.context_tokens;
  options.limits.eos_ids = model_->config().eos_token_ids;
  options.limits.tokenizer = tokenizer_.get();
  constraints_ = std::make_unique<ConstraintCompiler>(tokenizer_.get(), options.limits.vocab);
  options.limits.constraints = constraints_.get();
  scheduler_ = std::make_unique<Scheduler>(std::move(options), *runner_, *adapters_);
  info_.context_tokens = static_cast<int32_t>(memory.context_tokens);
  return absl::OkStatus();
}

EngineImpl::~EngineImpl() {
  if (scheduler_ == nullptr) return;  // never started
  Shutdown(absl::InfinitePast());
  adapters_->StopLoading();  // it wakes the scheduler, which goes first
}

void EngineImpl::Shutdown(absl::Time deadline) {
  scheduler_->Drain(deadline);
  absl::MutexLock lock(&thread_mu_);
  if (thread_.joinable()) thread_.join();
}

EngineStats EngineImpl::Stats() const {
  EngineStats stats;
  stats.queued_requests = scheduler_->queued();
  stats.running_requests = scheduler_->running();
  stats.preemptions = scheduler_->preemptions();
  stats.kv_pages = cache_->num_pages() - cache_->lent_pages();
  stats.kv_pages_used = cache_->used_pages();
  stats.kv_pages_cached = cache_->cached_pages();
  stats.prefix_query_tokens = scheduler_->prefixes().query_tokens();
  stats.prefix_hit_tokens = scheduler_->prefixes().hit_tokens();
  stats.prefix_evicted_tokens = cache_->evicted_tokens();
  stats.kv_page_tokens = cache_->page_tokens();
  for (int tag = 0; tag < kNumMemoryTags; ++tag)
    stats.memory[tag] = device_.backend->allocator().Usage(static_cast<MemoryTag>(tag));
  for (const AdapterStatus& adapter : adapters_->List()) {
    stats.adapters_device += adapter.tier == ResidentTier::kDevice;
    stats.adapters_host += adapter.tier == ResidentTier::kHost;
    stats.adapters_disk += adapter.tier == ResidentTier::kDisk;
  }
  stats.training = scheduler_->training().claimed();
  stats.training_share = scheduler_->training_share();
  stats.healthy = scheduler_->healthy();
  return stats;
}

std::vector<AdapterResidency> EngineImpl::Adapters() const {
  std::vector<AdapterResidency> list;
  for (const AdapterStatus& adapter : adapters_->List())
    list.push_back({adapter.id, ToTier(adapter.tier), adapter.pins, adapter.device_bytes});
  return list;
}

absl::Status EngineImpl::RunAdapterTask(AdapterTask::Kind kind, const std::string& id,
                                        absl::Time deadline) {
  struct Answer {
    absl::Notification given;
    absl::Status status;
  };
  auto answer = std::make_shared<Answer>();
  RETURN_IF_ERROR(scheduler_->Post(kind, id, deadline, [answer](const absl::Status& status) {
    answer->status = status;
    answer->given.Notify();
  }));
  answer->given.WaitForNotification();
  return answer->status;
}

absl::StatusOr<TrainingPlan> EngineImpl::PlanTraining(const TrainingSpec& spec) const {
  ASSIGN_OR_RETURN(const std::unique_ptr<TrainingJob> job,
                   TrainingJob::Create(spec, model_, tokenizer_.get(), *device_.backend));
  return job->plan();
}

absl::StatusOr<TrainingId> EngineImpl::StartTraining(const TrainingSpec& spec,
                                                     std::shared_ptr<TrainingSink> sink) {
  if (spec.output_dir.empty()) return absl::InvalidArgumentError("output_dir is empty");
  ASSIGN_OR_RETURN(const uint64_t id, scheduler_->training().Claim());
  absl::StatusOr<std::unique_ptr<TrainingJob>> job =
      TrainingJob::Create(spec, model_, tokenizer_.get(), *device_.backend);
  if (!job.ok()) {
    scheduler_->training().Release(id);
    return job.status();
  }
  RETURN_IF_ERROR(scheduler_->StartTraining({id, *std::move(job), std::move(sink)}));
  return id;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const EngineConfig& config) {
  return EngineImpl::Create(config);
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const EngineConfig& config,
                                                     EngineParts parts) {
  return EngineImpl::Create(config, std::move(parts));
}

absl::StatusOr<std::array<int64_t, kNumMemoryTags>> PlanEngineMemory(const EngineConfig& config) {
  RETURN_IF_ERROR(ValidateEngineConfig(config));
  ASSIGN_OR_RETURN(const QuantSpec quant, ParseQuantSpec(config.quant));
  ASSIGN_OR_RETURN(const SelectedDevice device, SelectDevice(config.device, config.num_threads));
  ASSIGN_OR_RETURN(const ModelConfig model, LoadModelConfig(config.model_dir));
  ASSIGN_OR_RETURN(const EngineMemory memory, PlanMemory(config, model, quant, *device.backend));
  std::array<int64_t, kNumMemoryTags> plan{};
  plan[static_cast<int>(MemoryTag::kWeights)] = memory.weights;
  plan[static_cast<int>(MemoryTag::kKvCache)] =
      memory.kv.num_pages * KvPageBytes(memory.kv) - memory.adapters;
  plan[static_cast<int>(MemoryTag::kAdapters)] = memory.adapters;
  plan[static_cast<int>(MemoryTag::kTraining)] = memory.training;
  plan[static_cast<int>(MemoryTag::kWorkspace)] = memory.workspace;
  return plan;
}

}  // namespace lorad
