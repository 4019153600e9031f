#ifndef LORAD_TESTS_UNIT_ENGINE_SCHED_RECORDING_TRAINING_SINK_H_
#define LORAD_TESTS_UNIT_ENGINE_SCHED_RECORDING_TRAINING_SINK_H_

#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "engine/train/spec.h"
#include "gtest/gtest.h"

namespace lorad {

// Keeps what a job reports, and checks that the last word comes once. `ended` may be waited for
// from another thread; the rest is to be read after it.
class RecordingTrainingSink : public TrainingSink {
 public:
  void OnStart(const TrainingPlan&, int64_t resumed) override { resumed_from = resumed; }
  void OnStep(const StepReport& report) override {
    steps.push_back(report);
    if (steps.size() == 1) first_step.Notify();
  }
  void OnEval(const EvalReport&) override {}
  void OnCheckpoint(const CheckpointReport&) override {}
  void OnPublication(const PublicationReport& report) override {
    publication = report;
    if (at_publication) at_publication(report.adapter_id);
  }
  void OnWarning(const std::string&) override {}
  void OnFinish(const TrainingResult& finished) override {
    result = finished;
    End();
  }
  void OnStopped(int64_t step) override {
    stopped_at = step;
    End();
  }
  void OnError(const absl::Status& status) override {
    error = status;
    End();
  }

  std::function<void(const std::string& adapter_id)> at_publication;
  std::optional<PublicationReport> publication;
  std::function<void()> at_end;
  int64_t resumed_from = -1;
  std::vector<StepReport> steps;
  std::optional<TrainingResult> result;
  std::optional<int64_t> stopped_at;
  absl::Status error;
  absl::Notification first_step, ended;

 private:
  void End() {
    EXPECT_FALSE(ended.HasBeenNotified());
    if (at_end) at_end();
    ended.Notify();
  }
};

// A small job over made-up token sequences; its files go to `dir`.
inline TrainingSpec SmallTrainingSpec(const std::string& dir, const std::string& output) {
  const std::string path = dir + "/train.jsonl";
  std::ofstream file(path);
  for (int sample = 0; sample < 12; ++sample) {
    file << R"({"input_ids":[)";
    for (int i = 0; i < 24; ++i) file << (i ? "," : "") << 5 + (sample * 31 + i * i * 7) % 700;
    file << R"(],"labels":[)";
    for (int i = 0; i < 24; ++i) {
      if (i) file << ",";
      if (i < 8)
        file << -100;
      else
        file << 5 + (sample * 31 + i * i * 7) % 700;
    }
    file << "]}\n";
  }
  TrainingSpec spec;
  spec.lora.r = 4;
  spec.lora.lora_alpha = 8;
  spec.train_path = path;
  spec.max_seq_length = 48;
  spec.micro_batch_size = 2;
  spec.gradient_accumulation_steps = 2;
  spec.max_steps = 6;
  spec.learning_rate = 1e-3;
  spec.checkpoint_dir = dir + "/" + output + ".checkpoints";
  spec.output_dir = dir + "/" + output;
  return spec;
}

}  // namespace lorad

#endif  // LORAD_TESTS_UNIT_ENGINE_SCHED_RECORDING_TRAINING_SINK_H_
