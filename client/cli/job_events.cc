#include "client/cli/job_events.h"

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/cli/format.h"
#include "client/cli/json.h"
#include "client/cli/table.h"

namespace lorad::client::cli {
namespace {

std::string Report(const char* what, const v1::DatasetReport& report) {
  std::string out = absl::StrCat(what, ": ", FormatCount(report.samples()), " samples, ",
                                 FormatCount(report.tokens()), " tokens, ",
                                 FormatCount(report.target_tokens()), " of them trained on");
  if (report.truncated_samples() > 0) {
    absl::StrAppend(&out, "; ", report.truncated_samples(), " samples were cut, the longest has ",
                    report.longest_sample_tokens(), " tokens");
  }
  return out;
}

std::string StateLine(const std::string& job_id, const v1::JobStateChange& change) {
  std::string line = absl::StrCat(job_id, " ", StateName(change.to()));
  if (change.queued_reason() == v1::QUEUED_REASON_REQUEUED) {
    absl::StrAppend(&line, ": the server was restarted; it goes on from its last checkpoint");
  } else if (change.queued_reason() == v1::QUEUED_REASON_WAITING_FOR_TURN) {
    absl::StrAppend(&line, ": other jobs are before it");
  }
  if (change.to() == v1::JOB_STATE_RUNNING && change.attempt() > 1) {
    absl::StrAppend(&line, " (attempt ", change.attempt(), ")");
  }
  if (change.has_error()) absl::StrAppend(&line, ": ", JobErrorText(change.error()));
  return line;
}

std::string StartLine(const v1::JobStart& start) {
  const v1::TrainingPlan& plan = start.plan();
  std::string line = absl::StrCat(
      plan.steps(), " steps, ", FormatCount(plan.trainable_parameters()), " trained parameters in ",
      plan.adapted_modules(), " modules, ", PlanMemory(plan));
  if (start.resumed_from_step() > 0) {
    absl::StrAppend(&line, "; continues after step ", start.resumed_from_step());
  }
  return line;
}

std::string DatasetLine(const v1::JobDatasetReport& report) {
  return absl::StrCat(Report("train", report.train()), report.has_eval() ? "\n" : "",
                      report.has_eval() ? Report("eval", report.eval()) : "");
}

}  // namespace

std::string PlanMemory(const v1::TrainingPlan& plan) {
  std::string out = absl::StrCat("at most ", FormatBytes(plan.peak_bytes()));
  if (plan.pinned_bytes() > 0) {
    absl::StrAppend(&out, " and ", FormatBytes(plan.pinned_bytes()), " of pinned host memory");
  }
  if (!plan.activation_checkpointing().empty())
    absl::StrAppend(&out, "; ", plan.activation_checkpointing());
  return out;
}

std::string ForecastText(const v1::JobForecast& forecast) {
  return absl::StrCat(FormatSignificant(forecast.loss()), " (", FormatSignificant(forecast.lower()),
                      " to ", FormatSignificant(forecast.upper()), ")");
}

std::string StateName(v1::JobState state) {
  return v1::JobState_Name(state).substr(sizeof("JOB_STATE_") - 1);
}

std::string JobErrorText(const v1::JobError& error) {
  const std::string fault = v1::JobFault_Name(error.fault()).substr(sizeof("JOB_FAULT_") - 1);
  return absl::StrCat(
      absl::AsciiStrToLower(fault), " error, ",
      absl::StatusCodeToString(static_cast<absl::StatusCode>(error.status().code())), ": ",
      Printable(error.status().message()));
}

nlohmann::ordered_json JobEventJson(const std::string& job_id, const v1::JobEvent& event) {
  const nlohmann::ordered_json whole = ToJson(event);
  nlohmann::ordered_json line;
  line["job_id"] = job_id;
  line["seq"] = event.seq();
  if (whole.contains("time")) line["time"] = whole["time"];
  const auto* descriptor = v1::JobEvent::descriptor();
  const auto* kind = v1::JobEvent::GetReflection()->GetOneofFieldDescriptor(
      event, descriptor->FindOneofByName("event"));
  const std::string name = kind ? kind->name() : "unknown";
  line["event"] = name;
  if (!kind) return line;
  if (event.has_step()) {
    line.update(whole[name]);
  } else {
    line[name] = whole[name];
  }
  return line;
}

std::string StepDetails(const v1::JobStep& step, double seconds_left) {
  std::string out = absl::StrCat(
      "loss ", FormatSignificant(step.loss()), "  lr ", FormatSignificant(step.learning_rate()),
      "  ", FormatCount(static_cast<int64_t>(step.tokens_per_second())), " tok/s");
  if (seconds_left >= 0) absl::StrAppend(&out, "  ETA ", FormatSeconds(seconds_left));
  return out;
}

std::string JobEventLine(const std::string& job_id, const v1::JobEvent& event) {
  switch (event.event_case()) {
    case v1::JobEvent::kStateChange:
      return StateLine(job_id, event.state_change());
    case v1::JobEvent::kDatasetReport:
      return DatasetLine(event.dataset_report());
    case v1::JobEvent::kStart:
      return StartLine(event.start());
    case v1::JobEvent::kStep:
      return absl::StrCat("step ", event.step().step(), "/", event.step().steps(), "  ",
                          StepDetails(event.step(), -1));
    case v1::JobEvent::kEval:
      return absl::StrCat("eval after step ", event.eval().step(), ": loss ",
                          FormatSignificant(event.eval().loss()),
                          event.eval().best() ? " (best)" : "");
    case v1::JobEvent::kCheckpoint:
      return absl::StrCat("checkpoint after step ", event.checkpoint().step(), ": ",
                          FormatBytes(event.checkpoint().size_bytes()));
    case v1::JobEvent::kAdapterPublished:
      return absl::StrCat("adapter ", event.adapter_published().adapter(), " is published");
    case v1::JobEvent::kWarning:
      return absl::StrCat("warning: ", Printable(event.warning().message()));
    case v1::JobEvent::kForecast:
      return absl::StrCat("eval loss after step ", event.forecast().final_step(), " will be about ",
                          ForecastText(event.forecast()));
    case v1::JobEvent::EVENT_NOT_SET:
      return "";
  }
  return "";
}

}  // namespace lorad::client::cli
