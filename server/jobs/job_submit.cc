// Submit: everything that is checked before a job is stored, and the storing of it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/sha256.h"
#include "server/base/errors.h"
#include "server/base/names.h"
#include "server/base/proto_time.h"
#include "server/jobs/job_manager.h"
#include "server/jobs/training_spec.h"
#include "server/store/keys.h"

namespace lorad::server {
namespace {

constexpr char kMethod[] = "job.submit";

}  // namespace

absl::StatusOr<v1::Job> JobManager::Submit(const v1::SubmitJobRequest& request) {
  RETURN_IF_ERROR(CheckRequestId("request_id", request.request_id()));
  // Messages without maps serialise the same way every time within one build; a retry across an
  // upgrade that changed the spec is told so rather than run twice.
  const std::string digest = Sha256Hex(request.spec().SerializeAsString());
  ASSIGN_OR_RETURN(std::optional<v1::Job> submitted, FindSubmitted(request.request_id(), digest));
  if (submitted.has_value()) return *std::move(submitted);
  absl::StatusOr<TrainingPlan> plan;
  ASSIGN_OR_RETURN(v1::Job job, Prepare(request.spec(), plan));
  if (request.validate_only()) {
    *job.mutable_plan() = ToProto(*plan);
    return job;
  }
  absl::MutexLock lock(&submit_mu_);
  // Again: another call with the same id may have been faster.
  ASSIGN_OR_RETURN(submitted, FindSubmitted(request.request_id(), digest));
  if (submitted.has_value()) return *std::move(submitted);
  return Enqueue(request, digest, std::move(job), *plan);
}

absl::StatusOr<std::optional<v1::Job>> JobManager::FindSubmitted(const std::string& request_id,
                                                                 const std::string& digest) {
  if (request_id.empty()) return std::nullopt;
  ASSIGN_OR_RETURN(const std::optional<KeyValue> kv,
                   store_->Get(keys::Request(kMethod, request_id)));
  if (!kv.has_value()) return std::nullopt;
  const std::pair<std::string, std::string> done = absl::StrSplit(kv->value, ' ');
  if (done.first != digest) {
    return AlreadyExists(
        "request_id", request_id,
        absl::StrCat("it submitted ", done.second, " with another spec; choose a new one"));
  }
  ASSIGN_OR_RETURN(v1::Job job, Get(done.second));
  return job;
}

absl::Status JobManager::CheckRoom() const {
  absl::MutexLock lock(&mu_);
  if (stopping_) {
    return WithReason(
        WithRetry(absl::UnavailableError("the server is shutting down; submit again later"),
                  absl::Seconds(5)),
        "DRAINING", {});
  }
  if (static_cast<int>(queue_.size()) < options_.max_queued) return absl::OkStatus();
  return WithReason(WithRetry(absl::ResourceExhaustedError(absl::StrCat(
                                  queue_.size(), " jobs are queued, at most ", options_.max_queued,
                                  " may be; submit again when one has ended")),
                              absl::Seconds(30)),
                    "JOB_QUEUE_FULL", {});
}

absl::StatusOr<v1::Job> JobManager::Prepare(const v1::JobSpec& spec,
                                            absl::StatusOr<TrainingPlan>& plan) {
  RETURN_IF_ERROR(CheckName("spec.name", spec.name()));
  if (spec.train_dataset().empty()) return FieldError("spec.train_dataset", "is required");
  RETURN_IF_ERROR(CheckRoom());
  v1::Job job;
  *job.mutable_spec() = spec;
  ASSIGN_OR_RETURN(const v1::Dataset train, datasets_->Get(spec.train_dataset()));
  job.set_train_sha256(train.sha256());
  if (!spec.eval_dataset().empty()) {
    ASSIGN_OR_RETURN(const v1::Dataset eval, datasets_->Get(spec.eval_dataset()));
    job.set_eval_sha256(eval.sha256());
  }
  v1::TrainingSpec& training = *job.mutable_spec()->mutable_training();
  std::optional<v1::Adapter> warm_start;
  if (!training.warm_start().empty()) {
    ASSIGN_OR_RETURN(warm_start, adapters_->Get(training.warm_start()));
    training.set_warm_start(warm_start->ref());  // an alias may move before the job runs
  }
  const v1::Adapter* from = warm_start.has_value() ? &*warm_start : nullptr;
  const int32_t context = engine_->model().context_tokens;
  FillDefaults(training, context, from);
  RETURN_IF_ERROR(CheckTrainingSpec(training, !spec.eval_dataset().empty(), context, from));
  ASSIGN_OR_RETURN(const TrainingSpec engine_spec, EngineSpec(job));
  plan = engine_->PlanTraining(engine_spec);
  RETURN_IF_ERROR(WithName(WithName(plan.status(), engine_spec.train_path,
                                    absl::StrCat("dataset ", spec.train_dataset())),
                           engine_spec.eval_path, absl::StrCat("dataset ", spec.eval_dataset())));
  return job;
}

absl::StatusOr<v1::Job> JobManager::Enqueue(const v1::SubmitJobRequest& request,
                                            const std::string& digest, v1::Job job,
                                            const TrainingPlan& plan) {
  RETURN_IF_ERROR(CheckRoom());
  const int64_t number = last_number_ + 1;
  job.set_job_id(JobId(number));
  *job.mutable_create_time() = ToProto(absl::Now());
  const std::string job_id = job.job_id();
  auto record = std::make_shared<JobRecord>(store_, std::move(job));
  std::vector<Op> ops = {Op::Put(keys::kLastJob, absl::StrCat(number))};
  if (!request.request_id().empty()) {
    ops.push_back(
        Op::Put(keys::Request(kMethod, request.request_id()), absl::StrCat(digest, " ", job_id)));
  }
  RETURN_IF_ERROR(record->Apply(
      [&](v1::Job& stored, JobEvents& events) {
        ChangeState(stored, events, v1::JOB_STATE_VALIDATING);
        *stored.mutable_plan() = ToProto(plan);
        v1::JobDatasetReport* report = events.emplace_back().mutable_dataset_report();
        *report->mutable_train() = stored.plan().train();
        if (stored.plan().has_eval()) *report->mutable_eval() = stored.plan().eval();
        ChangeState(stored, events, v1::JOB_STATE_QUEUED, v1::QUEUED_REASON_WAITING_FOR_TURN);
      },
      std::move(ops)));
  last_number_ = number;
  Report(v1::JOB_STATE_UNSPECIFIED, v1::JOB_STATE_QUEUED);
  v1::Job answer = record->Snapshot();
  absl::MutexLock lock(&mu_);
  queue_.push_back(std::move(record));
  answer.set_queue_position(static_cast<int32_t>(queue_.size()));
  return answer;
}

absl::StatusOr<TrainingSpec> JobManager::EngineSpec(const v1::Job& job) const {
  TrainingSpec spec = ToEngine(job.spec().training());
  ASSIGN_OR_RETURN(spec.train_path, datasets_->PathOf(job.train_sha256()));
  if (!job.eval_sha256().empty()) {
    ASSIGN_OR_RETURN(spec.eval_path, datasets_->PathOf(job.eval_sha256()));
  }
  if (!job.spec().training().warm_start().empty()) {
    ASSIGN_OR_RETURN(const ResolvedAdapter from,
                     adapters_->Resolve(job.spec().training().warm_start()));
    ASSIGN_OR_RETURN(spec.warm_start_dir, adapters_->Directory(from.id));
  }
  if (!job.job_id().empty()) {
    spec.checkpoint_dir = JoinPath(JobDir(job), "checkpoints");
    spec.output_dir = JoinPath(JobDir(job), "output");
  }
  return spec;
}

}  // namespace lorad::server
