// The one loop that owns the device: it admits requests, decodes, prefills, and gives a running
// training job its slices in between.
#ifndef LORAD_ENGINE_SCHED_SCHEDULER_H_
#define LORAD_ENGINE_SCHED_SCHEDULER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/infer/generation.h"
#include "engine/sched/inbox.h"
#include "engine/sched/serving.h"
#include "engine/sched/slice_budget.h"
#include "engine/sched/training_pacer.h"
#include "engine/sched/training_slot.h"

namespace lorad {

struct SchedulerOptions {
  ServingOptions serving;
  int32_t max_queued = 1024;
  GenerationLimits limits;
  SliceBudgetOptions training;
};

// Thread-safe above the line; below it, the engine thread alone. RunOneStep needs no thread of its
// own: tests call it directly.
class Scheduler {
 public:
  // `runner` and `adapters` are not owned and must outlive it.
  Scheduler(SchedulerOptions options, Runner& runner, AdapterStore& adapters);
  // Fails what is left. REQUIRES: Run() has returned.
  ~Scheduler();

  absl::StatusOr<uint64_t> Generate(GenerateRequest request, absl::Time deadline,
                                    std::shared_ptr<GenerateSink> sink);
  // All or none.
  absl::StatusOr<std::vector<uint64_t>> GenerateAll(std::vector<Submission> submissions,
                                                    absl::Time deadline);
  void Cancel(uint64_t id) { inbox_.Cancel(id); }
  absl::Status Score(ScoreRequest request, ScoreCallback done);
  // kNotFound: unknown adapter. Otherwise task.done is called once, on the engine thread.
  // kDeadlineExceeded names the requests that hold an adapter past the deadline of its unloading.
  absl::Status Post(AdapterTask::Kind kind, const std::string& adapter_id, absl::Time deadline,
                    std::function<void(const absl::Status&)> done);
  TrainingSlot& training() { return training_; }
  // Hands over a claimed job. The claim is given back when an error is returned.
  absl::Status StartTraining(TrainingStart start);
  void StopTraining(TrainingStop stop) { inbox_.Put(stop); }
  // No new work from now on. What runs goes on until `deadline` and fails with kUnavailable then; a
  // training job writes a checkpoint and stops.
  void Drain(absl::Time deadline);
  void Wake() { inbox_.Wake(); }

  // Requests that wait for a slot: the first one, or another after a preemption.
  int32_t queued() const { return inbox_.queued() + preempted_.load(std::memory_order_relaxed); }
  int32_t running() const { return running_.load(std::memory_order_relaxed); }
  // How much of the prompts was known.
  const PrefixReuse& prefixes() const { return serving_.prefixes(); }
  // Sequences that gave their pages back to older ones, since the start.
  int64_t preemptions() const { return preemptions_.load(std::memory_order_relaxed); }
  bool healthy() const { return healthy_.load(std::memory_order_relaxed); }
  // What training took of the last seconds, 0 to 1.
  double training_share() const { return pacer_.training_share(); }

  // ---- Engine thread --------------------------------------------------------------------------

  // Carries out what has arrived, then at most one pass of decoding, some prefill chunks and some
  // training slices. False when there was nothing to do.
  bool RunOneStep();
  // Blocks until there may be something to do.
  void WaitForWork();
  // After Drain(): all is done.
  bool drained() const;
  // RunOneStep and WaitForWork until drained().
  void Run();

 private:
  // Checked, with its lease.
  absl::StatusOr<std::unique_ptr<Sequence>> MakeSequence(Submission submission,
                                                         absl::Time deadline) const;
  void CarryOut(Mail mail);
  void RunAdapterTasks();
  bool RunAdapterTask(AdapterTask& task);
  void CheckDrain();
  bool Serve(absl::Time began);
  void NoteServed(absl::Time began);
  void PublishCounts();
  bool Train(bool served);
  PublishAdapter Publisher();
  void Poison(const absl::Status& status);
  void FailEverything(const absl::Status& status);

  const SchedulerOptions options_;
  AdapterStore& adapters_;
  const std::string model_digest_;
  Inbox inbox_;
  TrainingSlot training_;
  std::atomic<int32_t> running_{0};
  std::atomic<int32_t> preempted_{0};
  std::atomic<int64_t> preemptions_{0};
  std::atomic<bool> healthy_{true};
  std::atomic<bool> draining_{false};
  std::atomic<int64_t> drain_deadline_nanos_{0};

  // Engine thread.
  Serving serving_;
  SliceBudget budget_;
  TrainingPacer pacer_;
  std::vector<AdapterTask> adapter_tasks_;
  absl::Status poison_;  // the device error that has stopped everything
  bool swept_ = true;    // no unregistered adapter waits to be freed
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_SCHEDULER_H_
