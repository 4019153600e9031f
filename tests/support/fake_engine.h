// An Engine without a model, for tests of the server: what it answers is a simple function of the
// request, how long it takes and how it fails is scripted.
#ifndef LORAD_TESTS_SUPPORT_FAKE_ENGINE_H_
#define LORAD_TESTS_SUPPORT_FAKE_ENGINE_H_

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/infer/constraint/constraint_compiler.h"
#include "engine/io/tokenizer.h"

namespace lorad {

// May be changed while the engine runs.
struct FakeScript {
  std::atomic<int64_t> token_delay_us = 0;  // between two rounds of tokens
  std::atomic<int64_t> step_delay_us = 0;   // of one training step
  std::atomic<int64_t> fail_at_step = 0;    // the job ends with kInternal after this step; 0: never
  std::atomic<bool> hold_training = false;  // steps wait while it is set
  // The finished adapter serves from memory, and its files are written when this is not set.
  std::atomic<bool> hold_output = false;
  std::atomic<bool> fail_output = false;  // they cannot be written
  std::atomic<bool> healthy = true;
  std::atomic<int> max_queued = 1024;  // requests at once; more are kResourceExhausted
  std::atomic<bool> seeded = false;    // the seed, modulo 26, is added to each letter's place
  std::atomic<int> most_running = 0;   // set by the engine: the most requests that it had at once
};

// Token i of an answer: the byte FakeToken gives, for no seed or seed 0. The tokenizer maps bytes
// to ids 0..255; 256 ends a text and is never generated.
int32_t FakeToken(const std::string& adapter_id, const std::vector<int32_t>& prompt, int64_t i);

// Writes a PEFT directory that the fake accepts; the content decides its id, which is returned.
std::string WriteFakeAdapter(const std::string& dir, const std::string& content);

// Thread-safe. Serving runs on one thread, a job on another.
class FakeEngine : public Engine {
 public:
  explicit FakeEngine(const EngineConfig& config, std::shared_ptr<FakeScript> script = nullptr);
  ~FakeEngine() override;

  const ModelInfo& model() const override { return model_; }
  const Tokenizer* tokenizer() const override { return tokenizer_.get(); }
  EngineStats Stats() const override ABSL_LOCKS_EXCLUDED(mu_);

  absl::Status CheckConstraint(const ConstraintSpec& constraint) const override {
    return constraints_->Compile(constraint).status();
  }
  // A constrained answer is drawn among the allowed tokens, and ends as soon as it may.
  absl::StatusOr<RequestId> Generate(GenerateRequest request, absl::Time deadline,
                                     std::shared_ptr<GenerateSink> sink) override
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<std::vector<RequestId>> GenerateAll(std::vector<Submission> submissions,
                                                     absl::Time deadline) override
      ABSL_LOCKS_EXCLUDED(mu_);
  void Cancel(RequestId id) override ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Score(ScoreRequest request,
                     std::function<void(absl::StatusOr<ScoreResult>)> done) override;

  // An adapter whose adapter_config.json holds {"reject": "why"} is refused with that message.
  absl::StatusOr<AdapterInfo> InspectAdapter(const std::string& peft_dir) const override;
  absl::StatusOr<AdapterInfo> RegisterAdapter(const std::string& peft_dir) override
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<AdapterInfo> FindAdapter(const std::string& id) const override
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status UnregisterAdapter(const std::string& id) override ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status LoadAdapter(const std::string& id) override ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status UnloadAdapter(const std::string& id, absl::Time deadline) override
      ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<AdapterResidency> Adapters() const override ABSL_LOCKS_EXCLUDED(mu_);

  // Lines are JSON objects with prompt and completion, text, or input_ids and labels.
  absl::StatusOr<DatasetReport> ValidateDataset(const std::string& path,
                                                int32_t max_seq_length) const override;
  // Target modules that begin with "no_such" are unknown. 10 steps unless max_steps says otherwise.
  absl::StatusOr<TrainingPlan> PlanTraining(const TrainingSpec& spec) const override;
  absl::StatusOr<TrainingId> StartTraining(const TrainingSpec& spec,
                                           std::shared_ptr<TrainingSink> sink) override
      ABSL_LOCKS_EXCLUDED(mu_);
  void StopTraining(TrainingId id, bool checkpoint) override ABSL_LOCKS_EXCLUDED(mu_);

  void Shutdown(absl::Time deadline) override ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Running {
    RequestId id;
    GenerateRequest request;
    absl::Time deadline;
    std::shared_ptr<GenerateSink> sink;
    absl::Time start = absl::InfinitePast();
    int64_t done = 0;
    bool cancelled = false;
    std::shared_ptr<const Constraint> constraint = nullptr;  // null: none
    Constraint::State place = {};
  };

  void ServeLoop() ABSL_LOCKS_EXCLUDED(mu_);
  // Checked and resolved, without an id.
  absl::StatusOr<std::shared_ptr<Running>> MakeRunning(Submission submission, absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // One token for `running`, or its end.
  void Advance(Running& running) ABSL_LOCKS_EXCLUDED(mu_);
  int32_t NextToken(Running& running) const;
  void Train(TrainingSpec spec, std::shared_ptr<TrainingSink> sink);
  // Registers the adapter of `content` before it has files.
  void PublishTrained(const std::string& content, int64_t step, bool final, TrainingSink& sink)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Checkpoint(const TrainingSpec& spec, int64_t step, TrainingSink& sink);

  EngineObserver* const observer_;
  const std::shared_ptr<FakeScript> script_;
  ModelInfo model_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<ConstraintCompiler> constraints_;

  mutable absl::Mutex mu_;
  std::deque<std::shared_ptr<Running>> running_ ABSL_GUARDED_BY(mu_);
  RequestId next_id_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<std::string, AdapterTier> adapters_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, AdapterInfo> infos_ ABSL_GUARDED_BY(mu_);  // of adapters_
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool training_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_training_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_with_checkpoint_ ABSL_GUARDED_BY(mu_) = false;
  std::thread serve_thread_;
  std::thread train_thread_;
};

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_FAKE_ENGINE_H_
