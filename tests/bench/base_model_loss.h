// The loss of a base model in a given format, before and after fine-tuning, through the engine's
// façade.
#ifndef LORAD_TESTS_BENCH_BASE_MODEL_LOSS_H_
#define LORAD_TESTS_BENCH_BASE_MODEL_LOSS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"

namespace lorad::bench {

// Negative log-likelihoods, in nats, of what is in the loss of each sample.
struct SampleLosses {
  std::vector<double> sums;
  std::vector<int64_t> tokens;

  double Mean() const;  // per token
};

// How much higher `losses` is than `reference` per token, and the standard error of that over
// samples: they are the same in both, so most of what makes them differ cancels.
// REQUIRES: the same samples.
struct LossDifference {
  double mean = 0;
  double standard_error = 0;
};
LossDifference Difference(const SampleLosses& losses, const SampleLosses& reference);

// An engine on the CPU. `quant` is the text of a QuantSpec. Errors of CreateEngine.
absl::StatusOr<std::unique_ptr<Engine>> OpenBaseModel(const std::string& model_dir,
                                                      const std::string& quant);

// Scores the first `max_samples` (0: all) of a JSONL dataset. Errors of ReadDataset and Score.
absl::StatusOr<SampleLosses> ScoreDataset(Engine& engine, const std::string& model_dir,
                                          const std::string& path, int64_t max_samples);

// A job that has ended.
struct FineTuned {
  std::vector<StepReport> steps;
  double eval_loss = 0;  // after the last step; NaN without an eval set
};

// Fine-tunes an adapter as the spec says; it is then in the spec's output_dir. Errors of
// StartTraining and of the job.
absl::StatusOr<FineTuned> FineTune(Engine& engine, const TrainingSpec& spec);

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_BASE_MODEL_LOSS_H_
