#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/plan_flags.h"
#include "client/cli/scaling_points.h"
#include "client/cli/scaling_text.h"
#include "client/cli/session.h"
#include "client/planner.h"
#include "engine/core/status_macros.h"
#include "proto/planner/scaling.h"

namespace lorad::client::cli {
namespace {

constexpr double kScalingConfidence = 0.95;

v1::ScalingForm FormOf(const std::string& name) {
  v1::ScalingForm form = v1::SCALING_FORM_UNSPECIFIED;
  v1::ScalingForm_Parse(absl::StrCat("SCALING_FORM_", absl::AsciiStrToUpper(name)), &form);
  return form;
}

v1::ScalingVariable VariableOf(const std::string& name) {
  v1::ScalingVariable variable = v1::SCALING_VARIABLE_UNSPECIFIED;
  v1::ScalingVariable_Parse(absl::StrCat("SCALING_VARIABLE_", absl::AsciiStrToUpper(name)),
                            &variable);
  return variable;
}

absl::StatusOr<v1::FitScalingLawRequest> ScalingRequest(const Arguments& arguments) {
  v1::FitScalingLawRequest request;
  if (!arguments.Has("points")) return UsageError("--points is needed: the runs to fit a law to");
  request.set_form(FormOf(arguments.Text("form")));
  request.set_variable(VariableOf(arguments.Text("variable")));
  for (const std::string& text : arguments.List("budget")) {
    double budget;
    if (!absl::SimpleAtod(text, &budget)) {
      return UsageError(
          absl::StrCat("--budget: \"", text, "\" is no number of FLOPs, such as 1e21"));
    }
    request.add_budgets_flops(budget);
  }
  for (const std::string& text : arguments.List("predict")) {
    const absl::StatusOr<v1::ScalingPoint> point = ParseScalingPoint(text);
    if (!point.ok()) return UsageError(absl::StrCat("--predict: ", point.status().message()));
    *request.add_predict() = *point;
  }
  request.set_confidence(arguments.Double("confidence", kScalingConfidence));
  if (arguments.Has("draws")) {
    // The bound is the planner's; a larger number stays too large.
    request.set_bootstrap_draws(
        static_cast<int32_t>(std::clamp<int64_t>(arguments.Int("draws"), INT32_MIN, INT32_MAX)));
  }
  request.set_seed(arguments.Uint("seed"));
  ASSIGN_OR_RETURN(*request.mutable_family(), ReadScalingFamily(arguments.Text("points")));
  if (arguments.Has("compare")) {
    ASSIGN_OR_RETURN(*request.mutable_compare(), ReadScalingFamily(arguments.Text("compare")));
  }
  return request;
}

absl::StatusOr<int> RunPlanScaling(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const v1::FitScalingLawRequest request, ScalingRequest(arguments));
  ASSIGN_OR_RETURN(const v1::FitScalingLawResponse reply,
                   PlansOnServer(arguments)
                       ? PlannerClient(session.connection()).FitScalingLaw(request)
                       : planner::FitScalingLaw(request));
  if (session.json()) {
    session.PrintJson(reply);
  } else {
    session.out() << ScalingText(reply, request.confidence());
  }
  RETURN_IF_ERROR(ShowChart(session, arguments, ScalingChart(reply)));
  return 0;
}

}  // namespace

Command PlanScalingCommand() {
  std::vector<Option> options = {
      {"points", OptionType::kText, "FILE",
       "runs, .csv or .jsonl with parameters, tokens, compute_flops (what is known) and loss"},
      {"compare", OptionType::kText, "FILE", "runs of another family, to compare slopes with"},
      {"form",
       OptionType::kText,
       "FORM",
       "of the law: chinchilla, kaplan or floor",
       "what the points carry",
       {"chinchilla", "kaplan", "floor"}},
      {"variable",
       OptionType::kText,
       "X",
       "of kaplan and floor: parameters, tokens or compute",
       "what varies",
       {"parameters", "tokens", "compute"}},
      {"budget", OptionType::kList, "FLOPS", "budgets to find the best N and D for"},
      {"predict", OptionType::kText, "N=..,D=..", "a run whose loss is asked for", "", {}, true},
      {"confidence", OptionType::kDouble, "P", "of the intervals, in [0.5, 1)", "0.95"},
      {"draws", OptionType::kInt, "N", "of the bootstrap, 100 to 100000", "1000"},
      {"seed", OptionType::kUint, "N", "of the bootstrap", "0"}};
  const std::vector<Option> chart = PlanChartOptions();
  options.insert(options.end(), chart.begin(), chart.end());
  return {
      .path = "plan scaling",
      .summary =
          "Fits scaling laws to runs: losses to come, best N and D of a budget, two families",
      .options = std::move(options),
      .examples = {{"loractl plan scaling --points=runs.csv --budget=1e21,1e22",
                    "no daemon needed"},
                   {"loractl plan scaling --points=ours.csv --compare=theirs.csv --plot=laws.svg",
                    "will the steeper one win?"}},
      .run = RunPlanScaling};
}

}  // namespace lorad::client::cli
