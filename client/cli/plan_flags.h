// What the plan commands share: the spec on the command line, and where their charts go.
#ifndef LORAD_CLIENT_CLI_PLAN_FLAGS_H_
#define LORAD_CLIENT_CLI_PLAN_FLAGS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/arguments.h"
#include "client/cli/chart.h"
#include "client/cli/option.h"
#include "client/cli/session.h"
#include "lorad/v1/planner_model.pb.h"
#include "lorad/v1/planner_service.pb.h"

namespace lorad::client::cli {

// --model
Option PlanModelOption();
// --plot and --chart
std::vector<Option> PlanChartOptions();
// --model, the fields of PlanSpec, --plot and --chart.
std::vector<Option> PlanSpecOptions();

// Plans are made here, unless --server is given: then that server's own model is the default.
bool PlansOnServer(const Arguments& arguments);

// A preset's name, or the text of the config.json that a path leads to. Empty where --model is not
// given, which is a usage error unless PlansOnServer.
absl::StatusOr<v1::PlanModel> PlanModelOf(const Arguments& arguments);
absl::StatusOr<v1::PlanSpec> PlanSpecOf(const Arguments& arguments);

// "48GB" (10^9), "44.5GiB" (2^30), "800MB", or a number of bytes; at most 2^60. Usage error.
absl::StatusOr<int64_t> ParseByteCount(const std::string& option, std::string_view text);

// "261.14 GB" of 10^9 bytes, or MB and KB for less: the unit of GPUs.
std::string DecimalBytes(int64_t bytes);

// To --plot's file, and onto the terminal or, with --chart, whatever the output is.
absl::Status ShowChart(Session& session, const Arguments& arguments, const Chart& chart);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_PLAN_FLAGS_H_
