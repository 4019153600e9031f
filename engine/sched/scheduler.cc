#include "engine/sched/scheduler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

// With no request to serve, training returns to the loop this often, or when something arrives.
constexpr absl::Duration kTrainingAlone = absl::Milliseconds(20);
// How soon to look again for what gives no sign when it is ready.
constexpr absl::Duration kPoll = absl::Milliseconds(5);
constexpr absl::Duration kTrainingPoll = absl::Milliseconds(1);
constexpr absl::Duration kCopyPoll = absl::Microseconds(200);

}  // namespace

Scheduler::Scheduler(SchedulerOptions options, Runner& runner, AdapterStore& adapters)
    : options_(std::move(options)),
      adapters_(adapters),
      model_digest_(runner.model().digest()),
      inbox_(options_.max_queued),
      serving_(options_.serving, runner, adapters, [this] { inbox_.LeftQueue(1); }),
      budget_(options_.training),
      pacer_(training_, options_.serving.now, options_.serving.observer) {}

Scheduler::~Scheduler() {
  Mail mail = inbox_.Take();
  for (auto& sequence : mail.sequences) serving_.Accept(std::move(sequence));
  FailEverything(absl::UnavailableError("the engine has ended"));
}

// ---- Any thread -------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<Sequence>> Scheduler::MakeSequence(Submission submission,
                                                                  absl::Time deadline) const {
  GenerateRequest& request = submission.request;
  RETURN_IF_ERROR(lorad::Validate(request, options_.limits));
  ASSIGN_OR_RETURN(std::shared_ptr<const Constraint> constraint,
                   CompileConstraint(request.constraint, options_.limits));
  auto sequence = std::make_unique<Sequence>();
  if (!request.adapter_id.empty()) {
    ASSIGN_OR_RETURN(sequence->lease, adapters_.Find(request.adapter_id));
  }
  sequence->scope = {model_digest_, request.adapter_id, std::move(request.tenant)};
  sequence->priority = request.priority;
  sequence->generation.emplace(std::move(request), options_.limits, std::move(constraint));
  sequence->sink = std::move(submission.sink);
  sequence->deadline = deadline;
  sequence->arrival = absl::Now();
  return sequence;
}

absl::StatusOr<uint64_t> Scheduler::Generate(GenerateRequest request, absl::Time deadline,
                                             std::shared_ptr<GenerateSink> sink) {
  ASSIGN_OR_RETURN(std::unique_ptr<Sequence> sequence,
                   MakeSequence({std::move(request), std::move(sink)}, deadline));
  return inbox_.Put(std::move(sequence));
}

absl::StatusOr<std::vector<uint64_t>> Scheduler::GenerateAll(std::vector<Submission> submissions,
                                                             absl::Time deadline) {
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (Submission& submission : submissions) {
    ASSIGN_OR_RETURN(std::unique_ptr<Sequence> sequence,
                     MakeSequence(std::move(submission), deadline));
    sequences.push_back(std::move(sequence));
  }
  return inbox_.PutAll(std::move(sequences));
}

absl::Status Scheduler::Score(ScoreRequest request, ScoreCallback done) {
  RETURN_IF_ERROR(lorad::Validate(request, options_.limits));
  auto sequence = std::make_unique<Sequence>();
  if (!request.adapter_id.empty()) {
    ASSIGN_OR_RETURN(sequence->lease, adapters_.Find(request.adapter_id));
  }
  sequence->score_ids = std::move(request.ids);
  sequence->logprobs.assign(sequence->score_ids.size(), std::numeric_limits<float>::quiet_NaN());
  sequence->score_done = std::move(done);
  sequence->arrival = absl::Now();
  return inbox_.Put(std::move(sequence)).status();
}

absl::Status Scheduler::Post(AdapterTask::Kind kind, const std::string& adapter_id,
                             absl::Time deadline, std::function<void(const absl::Status&)> done) {
  AdapterTask task;
  task.kind = kind;
  ASSIGN_OR_RETURN(task.lease, adapters_.Find(adapter_id));
  task.deadline = deadline;
  task.done = std::move(done);
  return inbox_.Put(std::move(task));
}

absl::Status Scheduler::StartTraining(TrainingStart start) {
  const uint64_t id = start.id;
  const absl::Status status = inbox_.Put(std::move(start));
  if (!status.ok()) training_.Release(id);
  return status;
}

void Scheduler::Drain(absl::Time deadline) {
  drain_deadline_nanos_ = absl::ToUnixNanos(deadline);
  draining_ = true;
  inbox_.Close("the daemon is shutting down; try again when it is back");
}

// ---- Engine thread ----------------------------------------------------------------------------

void Scheduler::Run() {
  while (!drained()) {
    if (!RunOneStep() && !drained()) WaitForWork();
  }
}

bool Scheduler::RunOneStep() {
  const absl::Time began = options_.serving.now();
  CarryOut(inbox_.Take());
  if (!poison_.ok()) FailEverything(poison_);  // what arrived before the inbox was closed
  serving_.ExpireDeadlines(absl::Now());
  RunAdapterTasks();
  swept_ = adapters_.Sweep([this](const std::string& id) { serving_.prefixes().Forget(id); });
  CheckDrain();
  const bool served = Serve(began);
  const bool trained = Train(served);
  return served || trained;
}

void Scheduler::CarryOut(Mail mail) {
  for (auto& sequence : mail.sequences) serving_.Accept(std::move(sequence));
  for (const uint64_t id : mail.cancellations) serving_.Cancel(id);
  for (AdapterTask& task : mail.adapter_tasks) adapter_tasks_.push_back(std::move(task));
  for (TrainingStart& start : mail.training_starts)
    training_.Start(start.id, std::move(start.job), std::move(start.sink), Publisher());
  for (const TrainingStop& stop : mail.training_stops)
    training_.RequestStop(stop.id, stop.checkpoint);
}

void Scheduler::RunAdapterTasks() {
  std::erase_if(adapter_tasks_, [this](AdapterTask& task) { return RunAdapterTask(task); });
}

// True when the task has been answered.
bool Scheduler::RunAdapterTask(AdapterTask& task) {
  if (task.kind == AdapterTask::Kind::kLoad) {
    AdapterStore::Pin pin;
    const auto progress = adapters_.TryPin(task.lease, &pin);
    if (!progress.ok()) {
      task.done(progress.status());
      return true;
    }
    if (*progress == AdapterStore::Progress::kPinned) {
      task.done(absl::OkStatus());
      return true;
    }
  } else if (adapters_.TryUnload(task.lease)) {
    task.done(absl::OkStatus());
    return true;
  }
  if (absl::Now() < task.deadline) return false;
  if (task.kind == AdapterTask::Kind::kUnload) adapters_.CancelUnload(task.lease);
  task.done(absl::DeadlineExceededError(
      absl::StrCat("adapter ", AdapterStore::Id(task.lease),
                   task.kind == AdapterTask::Kind::kLoad
                       ? " is not on the device yet"
                       : " is still held by running requests, and stays on the device")));
  return true;
}

void Scheduler::CheckDrain() {
  if (!draining_) return;
  training_.RequestStop(/*checkpoint=*/true);
  if (absl::Now() < absl::FromUnixNanos(drain_deadline_nanos_)) return;
  const absl::Status status = absl::UnavailableError("the daemon is shutting down");
  serving_.FailAll(status);
  for (AdapterTask& task : adapter_tasks_) task.done(status);
  adapter_tasks_.clear();
}

bool Scheduler::Serve(absl::Time began) {
  serving_.Admit();
  PublishCounts();
  if (serving_.running() == 0) {
    budget_.OnIdle();
    return false;
  }
  const absl::Status status = serving_.Step(budget_);
  if (status.ok())
    NoteServed(began);
  else
    Poison(status);
  PublishCounts();
  return true;
}

void Scheduler::NoteServed(absl::Time began) {
  ServedStep step = serving_.last_step();
  step.began = began;
  if (budget_.OnServed(step) && options_.serving.observer != nullptr)
    options_.serving.observer->OnItlTargetMissed();
}

void Scheduler::PublishCounts() {
  running_.store(serving_.running(), std::memory_order_relaxed);
  preempted_.store(serving_.preempted(), std::memory_order_relaxed);
  preemptions_.store(serving_.preemptions(), std::memory_order_relaxed);
}

bool Scheduler::Train(bool served) {
  if (!training_.active()) return false;
  if (!served) {
    // Whoever waits for a copy runs as soon as it is done.
    pacer_.RunAlone(kTrainingAlone, [this] { return inbox_.pending() || adapters_.copying(); });
  } else if (const int64_t slices = pacer_.RunWithin(budget_.allowance());
             slices > 0 || (training_.active() && !training_.waiting())) {
    budget_.OnTrained(slices);  // a job that waits or has ended is not held up by serving
  }
  return !training_.waiting();
}

// From a finished job straight to the store: the adapter serves before it has files.
PublishAdapter Scheduler::Publisher() {
  return [this](const AdapterConfig& config,
                absl::Span<const AdapterModuleView> modules) -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const AdapterSummary summary, adapters_.Publish(config, modules));
    return summary.id;
  };
}

void Scheduler::WaitForWork() {
  absl::Time until = serving_.NextDeadline();
  if (!adapter_tasks_.empty() || !swept_) until = std::min(until, absl::Now() + kPoll);
  if (adapters_.copying()) until = std::min(until, absl::Now() + kCopyPoll);
  if (training_.waiting()) until = std::min(until, absl::Now() + kTrainingPoll);
  if (draining_) until = std::min(until, absl::FromUnixNanos(drain_deadline_nanos_));
  inbox_.Wait(until);
}

bool Scheduler::drained() const {
  return draining_ && !inbox_.pending() && serving_.running() == 0 && serving_.waiting() == 0 &&
         adapter_tasks_.empty() && !training_.active();
}

// The device is in an unknown state: nothing that runs can be trusted, nothing new may start.
void Scheduler::Poison(const absl::Status& status) {
  healthy_ = false;
  const std::string message = absl::StrCat(
      "a device error has stopped the engine and the daemon must be restarted: ", status.message());
  inbox_.Close(message);
  poison_ = absl::InternalError(message);
  FailEverything(poison_);
}

void Scheduler::FailEverything(const absl::Status& status) {
  serving_.FailAll(status);
  training_.Fail(status);
  pacer_.Forget();
  for (AdapterTask& task : adapter_tasks_) task.done(status);
  adapter_tasks_.clear();
}

}  // namespace lorad
