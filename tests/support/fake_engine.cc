#include "tests/support/fake_engine.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/io/sha256.h"
#include "nlohmann/json.hpp"
#include "tests/support/byte_tokenizer.h"

namespace lorad {
namespace {

constexpr int32_t kContext = 512;
constexpr int64_t kDefaultSteps = 10;
constexpr char kWeights[] = "adapter_model.safetensors";
constexpr char kConfig[] = "adapter_config.json";

std::string CheckpointDir(const TrainingSpec& spec, int64_t step) {
  return JoinPath(spec.checkpoint_dir, absl::StrCat("step-", step));
}

// The newest checkpoint's step, 0 if there is none.
int64_t LastCheckpoint(const TrainingSpec& spec) {
  int64_t last = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(spec.checkpoint_dir, error)) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(entry.path().filename().string(), '-');
    int64_t step = 0;
    if (absl::SimpleAtoi(parts.second, &step)) last = std::max(last, step);
  }
  return last;
}

absl::Status CheckSample(const nlohmann::json& sample, DatasetReport& report) {
  std::string kind;
  int64_t tokens = 0, targets = 0;
  if (sample.contains("prompt") && sample.contains("completion")) {
    kind = "prompt_completion";
    targets = static_cast<int64_t>(sample["completion"].get<std::string>().size());
    tokens = targets + static_cast<int64_t>(sample["prompt"].get<std::string>().size());
  } else if (sample.contains("text")) {
    kind = "text";
    tokens = targets = static_cast<int64_t>(sample["text"].get<std::string>().size());
  } else if (sample.contains("input_ids") && sample.contains("labels")) {
    kind = "tokens";
    tokens = targets = static_cast<int64_t>(sample["input_ids"].size());
  } else {
    return absl::InvalidArgumentError("neither prompt and completion, text, nor input_ids");
  }
  if (targets == 0) return absl::InvalidArgumentError("the completion has no token to train on");
  report.kind = kind;
  report.samples += 1;
  report.tokens += tokens;
  report.target_tokens += targets;
  report.longest_sample_tokens = std::max(report.longest_sample_tokens, tokens);
  return absl::OkStatus();
}

}  // namespace

int32_t FakeToken(const std::string& adapter_id, const std::vector<int32_t>& prompt, int64_t i) {
  // Letters only, so that the text is readable; another letter for another adapter.
  const int shift = adapter_id.empty() ? 0 : 1 + adapter_id[0] % 25;
  return 'a' + (prompt[static_cast<size_t>(i) % prompt.size()] + i + shift) % 26;
}

std::string WriteFakeAdapter(const std::string& dir, const std::string& content) {
  std::filesystem::create_directories(dir);
  std::ofstream(JoinPath(dir, kConfig)) << R"({"r": 4, "lora_alpha": 8})";
  std::ofstream(JoinPath(dir, kWeights)) << content;
  return Sha256Hex(content);
}

FakeEngine::FakeEngine(const EngineConfig& config, std::shared_ptr<FakeScript> script)
    : observer_(config.observer),
      script_(script != nullptr ? std::move(script) : std::make_shared<FakeScript>()),
      tokenizer_(MakeByteTokenizer()) {
  model_.name = "fake";
  model_.architecture = "FakeForCausalLM";
  model_.digest = Sha256Hex("fake");
  model_.quant = "nf4,block=64,double_quant=true";
  model_.vocab_size = tokenizer_->vocab_size();
  model_.context_tokens = kContext;
  model_.has_tokenizer = true;
  model_.device = model_.device_kind = "cpu";
  model_.weight_bytes = 1 << 20;
  model_.config_json =
      R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,)"
      R"("intermediate_size":128,"num_hidden_layers":4,"num_attention_heads":4,)"
      R"("num_key_value_heads":2,"vocab_size":300,"rms_norm_eps":1e-5,)"
      R"("max_position_embeddings":512,"rope_theta":10000,"hidden_act":"silu"})";
  constraints_ = std::make_unique<ConstraintCompiler>(tokenizer_.get(), model_.vocab_size);
  serve_thread_ = std::thread([this] { ServeLoop(); });
}

FakeEngine::~FakeEngine() { Shutdown(absl::Now()); }

EngineStats FakeEngine::Stats() const {
  EngineStats stats;
  absl::MutexLock lock(&mu_);
  stats.running_requests = static_cast<int32_t>(running_.size());
  stats.kv_pages = 64;
  stats.kv_pages_used = std::min<int64_t>(64, stats.running_requests);
  stats.kv_page_tokens = 16;
  for (const auto& [id, tier] : adapters_) {
    (tier == AdapterTier::kDevice ? stats.adapters_device : stats.adapters_disk) += 1;
  }
  stats.training = training_;
  stats.healthy = script_->healthy;
  return stats;
}

absl::StatusOr<RequestId> FakeEngine::Generate(GenerateRequest request, absl::Time deadline,
                                               std::shared_ptr<GenerateSink> sink) {
  ASSIGN_OR_RETURN(const std::vector<RequestId> ids,
                   GenerateAll({{std::move(request), std::move(sink)}}, deadline));
  return ids[0];
}

absl::StatusOr<std::vector<RequestId>> FakeEngine::GenerateAll(std::vector<Submission> submissions,
                                                               absl::Time deadline) {
  absl::MutexLock lock(&mu_);
  if (stopping_) return absl::UnavailableError("the engine has stopped");
  if (static_cast<int>(running_.size() + submissions.size()) > script_->max_queued) {
    return absl::ResourceExhaustedError("the request queue is full");
  }
  std::vector<std::shared_ptr<Running>> accepted;
  for (Submission& submission : submissions) {
    ASSIGN_OR_RETURN(auto running, MakeRunning(std::move(submission), deadline));
    accepted.push_back(std::move(running));
  }
  std::vector<RequestId> ids;
  for (const auto& running : accepted) {
    ids.push_back(running->id = next_id_++);
    running_.push_back(running);
  }
  script_->most_running = std::max(script_->most_running.load(), static_cast<int>(running_.size()));
  return ids;
}

absl::StatusOr<std::shared_ptr<FakeEngine::Running>> FakeEngine::MakeRunning(Submission submission,
                                                                             absl::Time deadline) {
  GenerateRequest& request = submission.request;
  if (!request.adapter_id.empty()) {
    const auto it = adapters_.find(request.adapter_id);
    if (it == adapters_.end()) return absl::NotFoundError("unknown adapter");
    it->second = AdapterTier::kDevice;
  }
  if (request.max_tokens == 0) {
    request.max_tokens = kContext - static_cast<int32_t>(request.prompt.size());
  }
  auto running = std::make_shared<Running>();
  *running = {0, std::move(request), deadline, std::move(submission.sink), absl::Now()};
  ASSIGN_OR_RETURN(running->constraint, constraints_->Compile(running->request.constraint));
  if (running->constraint != nullptr) running->place = running->constraint->Start();
  return running;
}

void FakeEngine::Cancel(RequestId id) {
  absl::MutexLock lock(&mu_);
  for (const auto& running : running_) {
    if (running->id == id) running->cancelled = true;
  }
}

void FakeEngine::ServeLoop() {
  while (true) {
    std::vector<std::shared_ptr<Running>> round;
    {
      absl::MutexLock lock(&mu_);
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return stopping_ || !running_.empty();
      };
      mu_.Await(absl::Condition(&ready));
      if (running_.empty()) return;
      round.assign(running_.begin(), running_.end());
    }
    for (const auto& running : round) Advance(*running);
    absl::SleepFor(absl::Microseconds(script_->token_delay_us.load()));
  }
}

int32_t FakeEngine::NextToken(Running& running) const {
  const GenerateRequest& request = running.request;
  int32_t token = FakeToken(request.adapter_id, request.prompt, running.done++);
  if (script_->seeded) {
    token = 'a' + static_cast<int32_t>((token - 'a' + request.sampling.seed % 26) % 26);
  }
  if (running.constraint == nullptr) return token;
  std::vector<int32_t> allowed;
  running.constraint->Allowed(running.place)->ForEach([&](int32_t id) { allowed.push_back(id); });
  const int32_t id = allowed[static_cast<size_t>(token) % allowed.size()];
  running.constraint->Advance(id, &running.place);
  return id;
}

void FakeEngine::Advance(Running& running) {
  bool cancelled;
  {
    absl::MutexLock lock(&mu_);
    cancelled = running.cancelled;
  }
  const GenerateRequest& request = running.request;
  GenerateResult result;
  result.adapter_id = request.adapter_id;
  result.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  result.cached_tokens = result.prompt_tokens / 2;
  result.finish_reason = cancelled                        ? FinishReason::kCancelled
                         : absl::Now() > running.deadline ? FinishReason::kDeadline
                                                          : FinishReason::kLength;
  if (result.finish_reason == FinishReason::kLength && running.done < request.max_tokens) {
    GenerateDelta delta;
    const int32_t id = NextToken(running);
    delta.ids = {id};
    delta.text = tokenizer_->Decode(delta.ids);
    if (request.logprobs >= 0) {
      delta.logprobs = {{id, -0.5f, {}}};
      delta.logprobs[0].top.resize(static_cast<size_t>(request.logprobs), {id, -0.5f});
    }
    if (observer_ != nullptr && running.done == 1) {
      observer_->OnFirstToken(!request.adapter_id.empty(),
                              absl::ToDoubleSeconds(absl::Now() - running.start));
    }
    running.sink->OnDelta(std::move(delta));
    const bool complete = running.constraint != nullptr && running.place.complete;
    if (complete) result.finish_reason = FinishReason::kStop;
    if (!complete && running.done < request.max_tokens) return;
  }
  result.generated_tokens = static_cast<int32_t>(running.done);
  if (observer_ != nullptr) {
    observer_->OnRequestFinished({!request.adapter_id.empty(), 0, 0,
                                  absl::ToDoubleSeconds(absl::Now() - running.start),
                                  result.prompt_tokens, result.cached_tokens,
                                  result.generated_tokens, result.finish_reason});
  }
  {
    absl::MutexLock lock(&mu_);  // its place is free when it hears of its end
    std::erase_if(running_, [&](const auto& each) { return each.get() == &running; });
  }
  running.sink->OnFinish(result);
}

absl::Status FakeEngine::Score(ScoreRequest request,
                               std::function<void(absl::StatusOr<ScoreResult>)> done) {
  ScoreResult result;
  for (size_t i = 0; i < request.ids.size(); ++i) {
    result.logprobs.push_back(i == 0 ? std::numeric_limits<float>::quiet_NaN()
                                     : -0.25f * static_cast<float>(i));
  }
  done(std::move(result));
  return absl::OkStatus();
}

absl::StatusOr<AdapterInfo> FakeEngine::InspectAdapter(const std::string& peft_dir) const {
  ASSIGN_OR_RETURN(const nlohmann::json config, ReadJsonFile(JoinPath(peft_dir, kConfig)));
  if (config.contains("reject")) {
    return absl::InvalidArgumentError(config["reject"].get<std::string>());
  }
  ASSIGN_OR_RETURN(const std::string weights, ReadFile(JoinPath(peft_dir, kWeights)));
  AdapterInfo info;
  info.id = Sha256Hex(weights);
  info.r = config.value("r", 1);
  info.lora_alpha = config.value("lora_alpha", 1.0);
  info.target_modules = {"q_proj"};
  info.adapted_modules = 1;
  info.device_bytes = static_cast<int64_t>(weights.size());
  return info;
}

absl::StatusOr<AdapterInfo> FakeEngine::RegisterAdapter(const std::string& peft_dir) {
  ASSIGN_OR_RETURN(AdapterInfo info, InspectAdapter(peft_dir));
  absl::MutexLock lock(&mu_);
  adapters_.try_emplace(info.id, AdapterTier::kDisk);
  infos_[info.id] = info;
  return info;
}

absl::StatusOr<AdapterInfo> FakeEngine::FindAdapter(const std::string& id) const {
  absl::MutexLock lock(&mu_);
  const auto it = infos_.find(id);
  if (it == infos_.end()) return absl::NotFoundError("unknown adapter");
  return it->second;
}

absl::Status FakeEngine::UnregisterAdapter(const std::string& id) {
  absl::MutexLock lock(&mu_);
  infos_.erase(id);
  return adapters_.erase(id) > 0 ? absl::OkStatus() : absl::NotFoundError("unknown adapter");
}

absl::Status FakeEngine::LoadAdapter(const std::string& id) {
  absl::MutexLock lock(&mu_);
  const auto it = adapters_.find(id);
  if (it == adapters_.end()) return absl::NotFoundError("unknown adapter");
  it->second = AdapterTier::kDevice;
  if (observer_ != nullptr) observer_->OnAdapterLoad("disk", absl::OkStatus(), 0.001);
  return absl::OkStatus();
}

absl::Status FakeEngine::UnloadAdapter(const std::string& id, absl::Time) {
  absl::MutexLock lock(&mu_);
  const auto it = adapters_.find(id);
  if (it == adapters_.end()) return absl::NotFoundError("unknown adapter");
  it->second = AdapterTier::kDisk;
  return absl::OkStatus();
}

std::vector<AdapterResidency> FakeEngine::Adapters() const {
  absl::MutexLock lock(&mu_);
  std::vector<AdapterResidency> residency;
  for (const auto& [id, tier] : adapters_) residency.push_back({id, tier, 0, 0});
  return residency;
}

absl::StatusOr<DatasetReport> FakeEngine::ValidateDataset(const std::string& path, int32_t) const {
  ASSIGN_OR_RETURN(const std::string content, ReadFile(path));
  DatasetReport report;
  int line = 0;
  for (const auto text : absl::StrSplit(content, '\n')) {
    ++line;
    if (text.empty()) continue;
    const auto sample = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
    absl::Status status = sample.is_object() ? CheckSample(sample, report)
                                             : absl::InvalidArgumentError("not a JSON object");
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(path, " line ", line, ": ", status.message()));
    }
  }
  if (report.samples == 0) return absl::InvalidArgumentError("the dataset has no sample");
  return report;
}

absl::StatusOr<TrainingPlan> FakeEngine::PlanTraining(const TrainingSpec& spec) const {
  for (const std::string& target : spec.lora.target_modules) {
    if (absl::StartsWith(target, "no_such")) {
      return absl::InvalidArgumentError(absl::StrCat("target module ", target, " is unknown"));
    }
  }
  TrainingPlan plan;
  ASSIGN_OR_RETURN(plan.train, ValidateDataset(spec.train_path, spec.max_seq_length));
  if (!spec.eval_path.empty()) {
    ASSIGN_OR_RETURN(plan.eval, ValidateDataset(spec.eval_path, spec.max_seq_length));
  }
  plan.steps = spec.max_steps > 0 ? spec.max_steps : kDefaultSteps;
  plan.adapted_modules = 1;
  plan.peak_bytes = 1 << 20;
  plan.pinned_bytes = absl::StartsWith(spec.optim, "paged_") ? 1 << 16 : 0;
  return plan;
}

absl::StatusOr<TrainingId> FakeEngine::StartTraining(const TrainingSpec& spec,
                                                     std::shared_ptr<TrainingSink> sink) {
  ASSIGN_OR_RETURN(const TrainingPlan plan, PlanTraining(spec));
  absl::MutexLock lock(&mu_);
  if (training_) return absl::FailedPreconditionError("another job is training");
  if (train_thread_.joinable()) train_thread_.join();
  training_ = true;
  stop_training_ = false;
  train_thread_ = std::thread([this, spec, sink, plan] {
    sink->OnStart(plan, LastCheckpoint(spec));
    Train(spec, sink);
  });
  return 1;
}

void FakeEngine::StopTraining(TrainingId, bool checkpoint) {
  absl::MutexLock lock(&mu_);
  stop_training_ = true;
  stop_with_checkpoint_ = checkpoint;
}

absl::Status FakeEngine::Checkpoint(const TrainingSpec& spec, int64_t step, TrainingSink& sink) {
  const std::string dir = CheckpointDir(spec, step);
  RETURN_IF_ERROR(CreateDirectories(dir));
  RETURN_IF_ERROR(WriteFileAtomically(JoinPath(dir, "state"), absl::StrCat(step)));
  sink.OnCheckpoint({step, dir, 16, Sha256Hex(absl::StrCat("checkpoint ", step)), 0.001});
  return absl::OkStatus();
}

void FakeEngine::PublishTrained(const std::string& content, int64_t step, bool final,
                                TrainingSink& sink) {
  AdapterInfo info;
  info.id = Sha256Hex(content);
  info.r = 4;
  {
    absl::MutexLock lock(&mu_);
    adapters_[info.id] = AdapterTier::kDevice;
    infos_[info.id] = info;
  }
  sink.OnPublication({step, final, info.id, 0.001});
  while (final && script_->hold_output) absl::SleepFor(absl::Milliseconds(1));
}

void FakeEngine::Train(TrainingSpec spec, std::shared_ptr<TrainingSink> sink) {
  const int64_t steps = spec.max_steps > 0 ? spec.max_steps : kDefaultSteps;
  const auto end = [this] {
    absl::MutexLock lock(&mu_);
    training_ = false;
  };
  for (int64_t step = LastCheckpoint(spec) + 1; step <= steps; ++step) {
    bool stop, checkpoint;
    {
      absl::MutexLock lock(&mu_);
      const auto go = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return stop_training_ || !script_->hold_training;
      };
      while (!go()) mu_.AwaitWithTimeout(absl::Condition(&stop_training_), absl::Milliseconds(1));
      stop = stop_training_;
      checkpoint = stop_with_checkpoint_;
    }
    if (stop) {
      if (checkpoint) (void)Checkpoint(spec, step - 1, *sink);
      end();
      return sink->OnStopped(checkpoint ? step - 1 : -1);
    }
    absl::SleepFor(absl::Microseconds(script_->step_delay_us.load()));
    sink->OnStep({step, steps, static_cast<double>(step) / steps, 2.0 / step, 1.0,
                  spec.learning_rate, 100, 50, 0.01, 10000});
    if (script_->fail_at_step == step) {
      end();
      return sink->OnError(absl::InternalError(absl::StrCat("scripted failure at step ", step)));
    }
    if (spec.save_steps > 0 && step % spec.save_steps == 0) {
      (void)Checkpoint(spec, step, *sink);
      if (spec.serve_checkpoints)
        PublishTrained(absl::StrCat("checkpoint ", step), step, /*final=*/false, *sink);
    }
    if (spec.eval_steps > 0 && step % spec.eval_steps == 0) {
      sink->OnEval({step, 2.5 / step, true, 10, 0.001});
    }
  }
  // The content is a function of the data and the spec alone, as the real engine's.
  const std::string content =
      absl::StrCat("trained seed=", spec.seed, " steps=", steps,
                   " data=", Sha256HexOfFile(spec.train_path).value_or("?"));
  PublishTrained(content, steps, /*final=*/true, *sink);
  if (script_->fail_output) {
    end();
    return sink->OnError(absl::ResourceExhaustedError("scripted failure to write the output"));
  }
  const std::string id = WriteFakeAdapter(spec.output_dir, content);
  end();
  sink->OnFinish({id, spec.output_dir, steps, 2.0 / steps, std::numeric_limits<double>::quiet_NaN(),
                  steps, false});
}

void FakeEngine::Shutdown(absl::Time deadline) {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    stop_training_ = true;
    const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return running_.empty(); };
    if (!mu_.AwaitWithDeadline(absl::Condition(&idle), deadline)) {
      for (const auto& running : running_) running->cancelled = true;
    }
  }
  if (serve_thread_.joinable()) serve_thread_.join();
  if (train_thread_.joinable()) train_thread_.join();
}

}  // namespace lorad
