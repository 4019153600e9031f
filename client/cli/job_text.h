// One job for people.
#ifndef LORAD_CLIENT_CLI_JOB_TEXT_H_
#define LORAD_CLIENT_CLI_JOB_TEXT_H_

#include <string>

#include "google/protobuf/timestamp.pb.h"
#include "lorad/v1/job_service.pb.h"

namespace lorad::client::cli {

// Key-value lines: state, progress, data, result, and the hyperparameters that it runs with.
std::string JobText(const v1::Job& job);

// "120/300" of a job that has begun; "" before.
std::string JobProgress(const v1::Job& job);

// "2026-01-31 12:00:05" in local time; "" for an unset one.
std::string TimeText(const google::protobuf::Timestamp& time);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_JOB_TEXT_H_
