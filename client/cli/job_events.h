// A job's events for scripts and for people.
#ifndef LORAD_CLIENT_CLI_JOB_EVENTS_H_
#define LORAD_CLIENT_CLI_JOB_EVENTS_H_

#include <string>

#include "lorad/v1/job_service.pb.h"
#include "nlohmann/json.hpp"

namespace lorad::client::cli {

// The stable form of scripts: {"job_id", "seq", "time", "event": KIND, ...}. A step event has the
// fields of JobStep beside these ("step", "loss", "grad_norm", "learning_rate", ...), and only a
// step event has them there; every other kind has its message under its own name.
nlohmann::ordered_json JobEventJson(const std::string& job_id, const v1::JobEvent& event);

// One line, without a newline; empty for an event that people need not see.
std::string JobEventLine(const std::string& job_id, const v1::JobEvent& event);

// "loss 1.234  lr 0.0002  812 tok/s"; `seconds_left` < 0: no ETA.
std::string StepDetails(const v1::JobStep& step, double seconds_left);

// "at most 1.5 GiB", and what a job takes of pinned host memory, if any.
std::string PlanMemory(const v1::TrainingPlan& plan);

// "1.234 (1.2 to 1.3)".
std::string ForecastText(const v1::JobForecast& forecast);

// "SUCCEEDED" of JOB_STATE_SUCCEEDED.
std::string StateName(v1::JobState state);

// "user: INVALID_ARGUMENT: ..." of a failed job.
std::string JobErrorText(const v1::JobError& error);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_JOB_EVENTS_H_
