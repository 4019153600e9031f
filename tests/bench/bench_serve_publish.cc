#include "tests/bench/bench_serve_publish.h"

#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "engine/core/status_macros.h"
#include "tests/bench/bench_serve_training.h"
#include "tests/bench/load_driver.h"
#include "tests/bench/load_report.h"
#include "tests/bench/load_requests.h"
#include "tests/bench/scratch_dir.h"
#include "tests/bench/serve_engine.h"

namespace lorad::bench {
namespace {

constexpr int32_t kSteps = 3;

// Waits for one token. Notes on the engine thread, read after `ended`.
class FirstToken final : public GenerateSink {
 public:
  void OnDelta(GenerateDelta) override {
    if (!at.has_value()) at = Clock::now();
  }
  void OnFinish(const GenerateResult&) override { ended.Notify(); }
  void OnError(const absl::Status& error) override {
    status = error;
    ended.Notify();
  }

  std::optional<Clock::time_point> at;
  absl::Status status;
  absl::Notification ended;
};

class Sink final : public TrainingSink {
 public:
  Sink(Engine& engine, std::vector<int32_t> prompt)
      : token(std::make_shared<FirstToken>()), engine_(engine), prompt_(std::move(prompt)) {}

  void OnStart(const TrainingPlan&, int64_t) override {}
  void OnStep(const StepReport&) override { step = Clock::now(); }
  void OnEval(const EvalReport&) override {}
  void OnCheckpoint(const CheckpointReport&) override {}
  void OnWarning(const std::string& message) override { warning = message; }
  void OnPublication(const PublicationReport& report) override {
    if (!report.final) return;
    published = Clock::now();
    snapshot_seconds = report.seconds;
    GenerateRequest request;
    request.prompt = prompt_;
    request.adapter_id = report.adapter_id;
    request.sampling.temperature = 0;
    request.max_tokens = 1;
    request.ignore_eos = true;
    status.Update(engine_.Generate(std::move(request), absl::InfiniteFuture(), token).status());
  }
  void OnFinish(const TrainingResult&) override { ended.Notify(); }
  void OnStopped(int64_t) override { OnError(absl::CancelledError("the job was stopped")); }
  void OnError(const absl::Status& error) override {
    status.Update(error);
    ended.Notify();
  }

  const std::shared_ptr<FirstToken> token;
  Clock::time_point step;  // reported last
  std::optional<Clock::time_point> published;
  double snapshot_seconds = 0;  // PublicationReport::seconds
  std::string warning;
  absl::Status status;
  absl::Notification ended;

 private:
  Engine& engine_;
  const std::vector<int32_t> prompt_;
};

absl::StatusOr<std::shared_ptr<Sink>> RunJob(const ServeCase& options, Engine& engine,
                                             std::vector<int32_t> prompt) {
  const ScratchDir dir;
  if (!dir.ok()) return absl::UnavailableError("cannot make a folder for temporary files");
  ASSIGN_OR_RETURN(TrainingSpec spec, MakeTrainingSpec(options, dir, engine));
  spec.max_steps = kSteps;
  auto sink = std::make_shared<Sink>(engine, std::move(prompt));
  RETURN_IF_ERROR(engine.StartTraining(spec, sink).status());
  sink->ended.WaitForNotification();
  RETURN_IF_ERROR(sink->status);
  if (!sink->published.has_value())
    return absl::InternalError("the adapter was not published: " + sink->warning);
  sink->token->ended.WaitForNotification();
  RETURN_IF_ERROR(sink->token->status);
  return sink;
}

}  // namespace

absl::Status MeasurePublication(const ServeCase& options, std::shared_ptr<const Model> model,
                                std::shared_ptr<Backend> backend, Json& json) {
  ASSIGN_OR_RETURN(const LoadPlan plan, MakeLoadPlan(options, options.adapters, options.seed));
  EngineConfig config;
  config.kv_cache_tokens = options.kv_cache_tokens;
  config.itl_target_ms = options.itl_target_ms;
  const int64_t vocab = model->config().vocab_size;
  ASSIGN_OR_RETURN(const std::unique_ptr<ServeEngine> serve,
                   ServeEngine::Create(options, config, std::move(model), std::move(backend)));
  std::vector<double> snapshots, publications, tokens, wholes;
  const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
  for (int64_t round = 0; round < options.rounds; ++round) {
    ServeCase one = options;
    one.seed += static_cast<uint64_t>(round);  // another adapter, which nobody knows
    PlannedRequest prompt;
    prompt.prompt_tokens = plan.prompt.min;
    prompt.prompt_seed = one.seed;
    ASSIGN_OR_RETURN(const auto job, RunJob(one, serve->engine(), PromptIds(prompt, vocab)));
    snapshots.push_back(job->snapshot_seconds);
    publications.push_back(seconds(*job->published - job->step));
    tokens.push_back(seconds(*job->token->at - *job->published));
    wholes.push_back(seconds(*job->token->at - job->step));
  }
  json["publication_ms"] = TimesJson(snapshots);
  json["step_to_publication_ms"] = TimesJson(publications);
  json["publication_to_token_ms"] = TimesJson(tokens);
  json["step_to_token_ms"] = TimesJson(wholes);
  return absl::OkStatus();
}

}  // namespace lorad::bench
