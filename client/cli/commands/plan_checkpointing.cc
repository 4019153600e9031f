#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/plan_flags.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "client/planner.h"
#include "engine/core/status_macros.h"
#include "proto/planner/memory.h"

namespace lorad::client::cli {
namespace {

using Points = google::protobuf::RepeatedPtrField<v1::CheckpointingPoint>;

// A backward pass is two forward ones; this much of all is computing again.
std::string Overhead(int64_t recomputed, int64_t layers) {
  return absl::StrFormat(
      "%+.1f %%", 100.0 * static_cast<double>(recomputed) / (3.0 * static_cast<double>(layers)));
}

void AddRows(const Points& points, int64_t layers, Table& table) {
  for (const v1::CheckpointingPoint& point : points)
    table.Row({point.policy(), DecimalBytes(point.total_bytes()),
               absl::StrCat(point.recomputed_layers()),
               Overhead(point.recomputed_layers(), layers)});
}

// Every forward pass counts, so that a logarithmic axis has no zero.
Series SeriesOf(const std::string& name, const Points& points, int64_t layers,
                Series::Style style) {
  Series series;
  series.name = name;
  series.style = style;
  for (const v1::CheckpointingPoint& point : points)
    series.points.push_back({static_cast<double>(point.total_bytes()) / 1e9,
                             static_cast<double>(layers + point.recomputed_layers())});
  return series;
}

Chart ChartOf(const v1::PlanCheckpointingResponse& plan) {
  Chart chart;
  chart.title = "memory against computing again";
  chart.x_label = "GB";
  chart.y_label = "layers run forward";
  chart.log_y = true;
  chart.series = {SeriesOf("optimal", plan.optimal(), plan.num_layers(), Series::Style::kLine),
                  SeriesOf("auto", plan.segments(), plan.num_layers(), Series::Style::kLine),
                  SeriesOf("policies", plan.policies(), plan.num_layers(), Series::Style::kPoints)};
  return chart;
}

absl::StatusOr<int> RunPlanCheckpointing(Session& session, const Arguments& arguments) {
  v1::PlanCheckpointingRequest request;
  ASSIGN_OR_RETURN(*request.mutable_spec(), PlanSpecOf(arguments));
  request.set_points(
      static_cast<int32_t>(std::clamp<int64_t>(arguments.Int("points", 24), -1, 65)));
  if (arguments.Has("fit")) {
    ASSIGN_OR_RETURN(const int64_t bytes, ParseByteCount("fit", arguments.Text("fit")));
    request.set_budget_bytes(bytes);
  }
  ASSIGN_OR_RETURN(const v1::PlanCheckpointingResponse plan,
                   PlansOnServer(arguments)
                       ? PlannerClient(session.connection()).PlanCheckpointing(request)
                       : planner::PlanCheckpointing(request));
  if (session.json()) {
    session.PrintJson(plan);
  } else {
    Table table({"POLICY", "MEMORY", "LAYERS AGAIN", "MORE COMPUTING"});
    AddRows(plan.policies(), plan.num_layers(), table);
    AddRows(plan.optimal(), plan.num_layers(), table);
    std::vector<std::pair<std::string, std::string>> facts = {
        {"layers", absl::StrCat(plan.num_layers())},
        {"a layer's input", DecimalBytes(plan.input_bytes())},
        {"a layer's activations", DecimalBytes(plan.layer_bytes())}};
    if (!plan.best().empty()) facts.push_back({"auto does", plan.best()});
    session.out() << table.Text() << "\n" << KeyValues(facts);
  }
  RETURN_IF_ERROR(ShowChart(session, arguments, ChartOf(plan)));
  return 0;
}

}  // namespace

Command PlanCheckpointingCommand() {
  std::vector<Option> options = PlanSpecOptions();
  options.push_back(
      {"fit", OptionType::kText, "BYTES", "say what \"auto\" does with so much memory"});
  options.push_back({"points", OptionType::kInt, "N", "of the curves, 2 to 64", "24"});
  return {.path = "plan checkpointing",
          .summary = "Draws memory against computing again, for every policy and the best ones",
          .options = std::move(options),
          .examples = {{"loractl plan checkpointing --model=llama-3-8b --batch=4 --fit=24GB", ""},
                       {"loractl plan checkpointing --model=llama-65b --plot=curve.png", ""}},
          .run = RunPlanCheckpointing};
}

}  // namespace lorad::client::cli
