#include "tests/bench/base_model_loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/synchronization/notification.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/model/config.h"
#include "engine/ops/cross_entropy.h"
#include "engine/train/dataset.h"

namespace lorad::bench {
namespace {

// Keeps what a job reports and how it ended.
class KeepingSink final : public TrainingSink {
 public:
  void OnStart(const TrainingPlan&, int64_t) override {}
  void OnStep(const StepReport& report) override { job_.steps.push_back(report); }
  void OnEval(const EvalReport& report) override { job_.eval_loss = report.loss; }
  void OnCheckpoint(const CheckpointReport&) override {}
  void OnWarning(const std::string&) override {}
  void OnFinish(const TrainingResult&) override { End(absl::OkStatus()); }
  void OnStopped(int64_t) override { End(absl::CancelledError("the job was stopped")); }
  void OnError(const absl::Status& status) override { End(status); }

  absl::StatusOr<FineTuned> Wait() {
    ended_.WaitForNotification();
    RETURN_IF_ERROR(end_);
    return job_;
  }

 private:
  void End(const absl::Status& status) {
    end_ = status;
    ended_.Notify();
  }

  FineTuned job_ = {.steps = {}, .eval_loss = std::nan("")};
  absl::Status end_;
  absl::Notification ended_;
};

absl::StatusOr<ScoreResult> Score(Engine& engine, std::vector<int32_t> ids) {
  absl::StatusOr<ScoreResult> result;
  absl::Notification done;
  RETURN_IF_ERROR(
      engine.Score({.ids = std::move(ids), .adapter_id = ""}, [&](absl::StatusOr<ScoreResult> r) {
        result = std::move(r);
        done.Notify();
      }));
  done.WaitForNotification();
  return result;
}

}  // namespace

double SampleLosses::Mean() const {
  return std::accumulate(sums.begin(), sums.end(), 0.0) /
         static_cast<double>(std::accumulate(tokens.begin(), tokens.end(), int64_t{0}));
}

LossDifference Difference(const SampleLosses& losses, const SampleLosses& reference) {
  LORAD_CHECK(losses.tokens == reference.tokens);
  LossDifference difference{.mean = losses.Mean() - reference.Mean()};
  double squares = 0, tokens = 0;
  for (size_t i = 0; i < losses.sums.size(); ++i) {
    const auto count = static_cast<double>(losses.tokens[i]);
    // Of a ratio of two sums: the linearised residual (Cochran, "Sampling Techniques",
    // section 6.3).
    const double residual = losses.sums[i] - reference.sums[i] - difference.mean * count;
    squares += residual * residual;
    tokens += count;
  }
  difference.standard_error = std::sqrt(squares) / tokens;
  return difference;
}

absl::StatusOr<std::unique_ptr<Engine>> OpenBaseModel(const std::string& model_dir,
                                                      const std::string& quant) {
  EngineConfig config;
  config.model_dir = model_dir;
  config.device = "cpu";
  config.quant = quant;
  config.prefix_cache = false;  // no sample may be scored by what another left
  return CreateEngine(config);
}

absl::StatusOr<SampleLosses> ScoreDataset(Engine& engine, const std::string& model_dir,
                                          const std::string& path, int64_t max_samples) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(model_dir));
  ASSIGN_OR_RETURN(const TokenDataset dataset,
                   ReadDataset(path, engine.model().context_tokens, config, engine.tokenizer()));
  const int64_t samples =
      max_samples > 0 ? std::min(max_samples, dataset.num_samples()) : dataset.num_samples();
  SampleLosses losses;
  for (int64_t i = 0; i < samples; ++i) {
    const TokenDataset::Sample sample = dataset.sample(i);
    ASSIGN_OR_RETURN(const ScoreResult score,
                     Score(engine, {sample.ids.begin(), sample.ids.end()}));
    double sum = 0;
    int64_t tokens = 0;
    for (size_t t = 1; t < sample.ids.size(); ++t) {
      if (sample.labels[t] == kIgnoreLabel) continue;
      sum -= double{score.logprobs[t]};
      ++tokens;
    }
    losses.sums.push_back(sum);
    losses.tokens.push_back(tokens);
  }
  return losses;
}

absl::StatusOr<FineTuned> FineTune(Engine& engine, const TrainingSpec& spec) {
  const auto sink = std::make_shared<KeepingSink>();
  RETURN_IF_ERROR(engine.StartTraining(spec, sink).status());
  return sink->Wait();
}

}  // namespace lorad::bench
