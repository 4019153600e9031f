// Small fine-tuning jobs on the golden models, for tests.
#ifndef LORAD_TESTS_TRAIN_TRAINING_FIXTURE_H_
#define LORAD_TESTS_TRAIN_TRAINING_FIXTURE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/device/backend.h"
#include "engine/model/weights.h"
#include "engine/train/job.h"
#include "tests/support/golden.h"
#include "tests/support/temp_dir.h"

namespace lorad {

// Keeps everything that a job reports.
class RecordingSink final : public TrainingSink {
 public:
  void OnStart(const TrainingPlan&, int64_t resumed) override { resumed_from = resumed; }
  void OnStep(const StepReport& report) override { steps.push_back(report); }
  void OnEval(const EvalReport& report) override { evals.push_back(report); }
  void OnCheckpoint(const CheckpointReport& report) override { checkpoints.push_back(report); }
  void OnPublication(const PublicationReport& report) override { publications.push_back(report); }
  void OnWarning(const std::string& message) override { warnings.push_back(message); }
  void OnFinish(const TrainingResult& report) override {
    ++ends;
    result = report;
  }
  void OnStopped(int64_t step) override {
    ++ends;
    stopped_at = step;
  }
  void OnError(const absl::Status& status) override {
    ++ends;
    error = status;
  }

  int64_t resumed_from = -1;
  std::vector<StepReport> steps;
  std::vector<EvalReport> evals;
  std::vector<CheckpointReport> checkpoints;
  std::vector<PublicationReport> publications;
  std::vector<std::string> warnings;
  std::optional<TrainingResult> result;
  std::optional<int64_t> stopped_at;
  absl::Status error;
  int ends = 0;  // calls of OnFinish, OnStopped and OnError together
};

// One base model on a backend, the CPU's unless another is given, and a directory for its jobs.
class TrainingFixture {
 public:
  explicit TrainingFixture(const std::string& golden_model);
  TrainingFixture(const std::string& golden_model, std::unique_ptr<Backend> backend);

  const Golden& golden() const { return golden_; }
  Backend& backend() { return *backend_; }
  const std::shared_ptr<const Model>& model() const { return model_; }

  // The settings of tests/golden/README.md on `train_path`, with a new output directory.
  TrainingSpec GoldenSpec(const std::string& train_path);
  // A job of a few short steps on random samples: shuffled, packed, accumulated.
  TrainingSpec SmallSpec();

  // The rows of the reference's "input_ids" or "labels".
  std::vector<std::vector<int32_t>> GoldenRows(const std::string& tensor) const;
  // The reference's three rows as a pre-tokenised file.
  std::string WriteGoldenRows();
  // Random pre-tokenised samples of 4 to 40 tokens; a pure function of the arguments.
  std::string WriteRandomRows(const std::string& name, int samples, uint64_t seed);

  std::string NewDir(const std::string& name);
  const TempDir& temp() const { return temp_; }

  // Runs a job until it ends, or until `stop` returns true after a slice; in the second case the
  // job is destroyed as by a crash.
  std::shared_ptr<RecordingSink> Run(
      const TrainingSpec& spec,
      const std::function<bool(TrainingJob&, const RecordingSink&)>& stop = nullptr);

 private:
  Golden golden_;
  TempDir temp_;
  std::unique_ptr<Backend> backend_;
  std::shared_ptr<const Model> model_;
  int dirs_ = 0;
};

}  // namespace lorad

#endif  // LORAD_TESTS_TRAIN_TRAINING_FIXTURE_H_
