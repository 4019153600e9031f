#include "client/cli/job_text.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/cli/format.h"
#include "client/cli/job_events.h"
#include "client/cli/json.h"
#include "client/cli/table.h"

namespace lorad::client::cli {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

void AddProgress(const v1::Job& job, Pairs& pairs) {
  if (job.queue_position() > 0)
    pairs.emplace_back("queue position", absl::StrCat(job.queue_position()));
  if (job.has_last_step()) {
    pairs.emplace_back("step", JobProgress(job));
    pairs.emplace_back(
        "now", StepDetails(job.last_step(), job.eta_seconds() > 0 ? job.eta_seconds() : -1));
  }
  if (job.has_last_eval()) {
    pairs.emplace_back("eval loss", absl::StrCat(FormatSignificant(job.last_eval().loss()),
                                                 " after step ", job.last_eval().step()));
  }
  if (job.has_forecast() && !job.has_result()) {
    pairs.emplace_back("final eval loss", absl::StrCat("about ", ForecastText(job.forecast())));
  }
}

void AddEnd(const v1::Job& job, Pairs& pairs) {
  if (job.has_result()) {
    const v1::JobResult& result = job.result();
    pairs.emplace_back("adapter", result.adapter());
    pairs.emplace_back("adapter sha256", result.sha256());
    pairs.emplace_back("final loss", FormatSignificant(result.final_loss()));
    if (result.has_best_eval_loss()) {
      pairs.emplace_back("best eval loss", absl::StrCat(FormatSignificant(result.best_eval_loss()),
                                                        " after step ", result.best_step()));
    }
    if (result.stopped_early()) pairs.emplace_back("stopped early", "yes");
  }
  if (job.has_error()) pairs.emplace_back("error", JobErrorText(job.error()));
}

// The fields of TrainingSpec as they are in JSON: the names that the flags have.
void AddTraining(const v1::TrainingSpec& spec, Pairs& pairs) {
  const nlohmann::ordered_json json = ToJson(spec);
  for (const auto& [name, value] : json.items()) {
    pairs.emplace_back(absl::StrCat("  ", name),
                       value.is_string() ? value.get<std::string>() : value.dump());
  }
}

}  // namespace

std::string TimeText(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixSeconds(time.seconds()),
                          absl::LocalTimeZone());
}

std::string JobProgress(const v1::Job& job) {
  if (!job.has_last_step()) return "";
  return absl::StrCat(job.last_step().step(), "/", job.last_step().steps());
}

std::string JobText(const v1::Job& job) {
  Pairs pairs = {{"job", job.job_id()},
                 {"state", StateName(job.state())},
                 {"name", job.spec().name()},
                 {"train dataset", job.spec().train_dataset()}};
  if (!job.spec().eval_dataset().empty()) {
    pairs.emplace_back("eval dataset", job.spec().eval_dataset());
  }
  pairs.emplace_back("created", TimeText(job.create_time()));
  if (job.has_start_time()) pairs.emplace_back("started", TimeText(job.start_time()));
  if (job.has_end_time()) pairs.emplace_back("ended", TimeText(job.end_time()));
  if (job.attempts() > 1) pairs.emplace_back("attempts", absl::StrCat(job.attempts()));
  if (job.has_plan()) {
    pairs.emplace_back("plan", absl::StrCat(job.plan().steps(), " steps, ",
                                            FormatCount(job.plan().trainable_parameters()),
                                            " trained parameters, ", PlanMemory(job.plan())));
  }
  AddProgress(job, pairs);
  AddEnd(job, pairs);
  pairs.emplace_back("training", "");
  AddTraining(job.spec().training(), pairs);
  return KeyValues(pairs);
}

}  // namespace lorad::client::cli
