// A fitted scaling law for people: text and chart.
#ifndef LORAD_CLIENT_CLI_SCALING_TEXT_H_
#define LORAD_CLIENT_CLI_SCALING_TEXT_H_

#include <string>

#include "client/cli/chart.h"
#include "lorad/v1/planner_scaling.pb.h"

namespace lorad::client::cli {

// `confidence` is the request's.
std::string ScalingText(const v1::FitScalingLawResponse& reply, double confidence);

// Loss over the law's variable (compute for a law in parameters and tokens): the points, and the
// least loss of each budget as a line that reaches as far as the points and the optima.
Chart ScalingChart(const v1::FitScalingLawResponse& reply);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_SCALING_TEXT_H_
