#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/job_follow.h"
#include "client/cli/job_text.h"
#include "client/cli/json.h"
#include "client/cli/session.h"
#include "client/cli/training_flags.h"
#include "client/cli/upload.h"
#include "client/jobs.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

// The job, as Submit answered it; "job_id" stands outside as well, where scripts look first.
void PrintSubmitted(const Session& session, const v1::Job& job) {
  if (session.json()) {
    nlohmann::ordered_json line;
    line["job_id"] = job.job_id();
    line["job"] = ToJson(job);
    session.out() << JsonLine(line) << std::endl;
  } else if (job.job_id().empty()) {
    session.out() << JobText(job);
  } else {
    session.out() << job.job_id() << " is submitted\n"
                  << "follow it: loractl job watch " << job.job_id() << "\n";
  }
}

absl::StatusOr<int> RunJobSubmit(Session& session, const Arguments& arguments) {
  for (const char* required : {"name", "train"}) {
    if (!arguments.Has(required)) return UsageError(absl::StrCat("--", required, " is needed"));
  }
  v1::SubmitJobRequest request;
  request.set_request_id(arguments.Text("request_id"));
  request.set_validate_only(arguments.Bool("validate_only"));
  v1::JobSpec& spec = *request.mutable_spec();
  spec.set_name(arguments.Text("name"));
  RETURN_IF_ERROR(SetTraining(arguments, *spec.mutable_training()));
  ASSIGN_OR_RETURN(*spec.mutable_train_dataset(), ResolveDataset(session, arguments.Text("train")));
  if (arguments.Has("eval")) {
    ASSIGN_OR_RETURN(*spec.mutable_eval_dataset(), ResolveDataset(session, arguments.Text("eval")));
  }
  ASSIGN_OR_RETURN(const v1::Job job, JobClient(session.connection()).Submit(request));
  const bool wait = arguments.Bool("wait") && !request.validate_only();
  if (!wait) {
    PrintSubmitted(session, job);
    return 0;
  }
  return FollowJob(session, job.job_id(), 0);
}

std::vector<Option> JobSubmitOptions() {
  std::vector<Option> options = {
      {"name", OptionType::kText, "ADAPTER", "required: name of the adapter that is made", ""},
      {"train", OptionType::kText, "FILE_OR_DATASET",
       "required: a local JSONL file (uploaded first) or the name of a dataset", ""},
      {"eval", OptionType::kText, "FILE_OR_DATASET", "the same, to evaluate with", ""},
      {"wait", OptionType::kBool, "", "follow the job to its end; exit code 0 only if it succeeds",
       "false"},
      {"validate_only", OptionType::kBool, "", "check and plan, start nothing", "false"},
      {"request_id", OptionType::kText, "ID", "the same id submits the same job once", "a new one"},
  };
  options.insert(options.end(), TrainingOptions().begin(), TrainingOptions().end());
  return options;
}

}  // namespace

Command JobSubmitCommand() {
  return {.path = "job submit",
          .summary = "Fine-tunes a LoRA adapter",
          .options = JobSubmitOptions(),
          .examples =
              {{"loractl job submit --name=tickets --train=train.jsonl --eval=eval.jsonl --wait",
                "with a progress bar; Ctrl-C leaves the job running"},
               {"loractl job submit --name=tickets --train=tickets --r=32 --lora_alpha=64 "
                "--learning_rate=1e-4 --num_train_epochs=2",
                "from a stored dataset"},
               {"loractl job submit --name=tickets --train=tickets --target_modules=q_proj,v_proj "
                "--validate_only",
                "what it would do and need"},
               {"loractl job submit --name=t --train=t.jsonl --wait --output=json | jq .loss", ""}},
          .run = RunJobSubmit};
}

}  // namespace lorad::client::cli
