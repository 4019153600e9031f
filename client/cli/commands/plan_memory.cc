#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/plan_flags.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "client/planner.h"
#include "engine/core/status_macros.h"
#include "proto/planner/memory.h"

namespace lorad::client::cli {
namespace {

std::string Share(int64_t bytes, int64_t of) {
  return absl::StrFormat("%.1f %%", 100.0 * static_cast<double>(bytes) / static_cast<double>(of));
}

void PrintItems(const v1::PlanMemoryResponse& plan, std::ostream& out) {
  Table table({"FOR", "BYTES", "SHARE"});
  int64_t activations = 0;
  for (const v1::MemoryItem& item : plan.items()) {
    table.Row(
        {item.description(), DecimalBytes(item.bytes()), Share(item.bytes(), plan.total_bytes())});
    if (item.activation()) activations += item.bytes();
  }
  if (activations > 0)
    table.Row(
        {"(all activations)", DecimalBytes(activations), Share(activations, plan.total_bytes())});
  table.Row({"TOTAL", DecimalBytes(plan.total_bytes()), Share(1, 1)});
  out << table.Text() << "\n";
}

void PrintFacts(const v1::PlanMemoryResponse& plan, std::ostream& out) {
  const v1::PlanSpec& spec = plan.spec();
  std::vector<std::pair<std::string, std::string>> facts = {
      {"account", spec.account() == "engine"
                      ? absl::StrCat("lorad's own layout, ", spec.device())
                      : "textbook: everything that unfused automatic differentiation keeps"},
      {"parameters", FormatCount(plan.parameters())},
      {"bits per weight", absl::StrFormat("%.3f", plan.bits_per_weight())}};
  if (plan.trained_parameters() > 0)
    facts.push_back({"trained", FormatCount(plan.trained_parameters())});
  if (!plan.checkpointing().empty()) facts.push_back({"activations", plan.checkpointing()});
  if (plan.pinned_bytes() > 0)
    facts.push_back({"beside it, on the host", DecimalBytes(plan.pinned_bytes())});
  std::vector<std::string> cards;
  for (const v1::CardCount& card : plan.cards())
    cards.push_back(absl::StrCat(card.count(), " of ", card.card()));
  facts.push_back({"cards that hold it", absl::StrJoin(cards, ", or ")});
  out << KeyValues(facts);
}

void PrintAdvice(const v1::PlanMemoryResponse& plan, std::ostream& out) {
  if (plan.available_bytes() == 0) return;
  out << "\n";
  if (plan.fits()) {
    out << "fits into " << DecimalBytes(plan.available_bytes()) << "\n";
    return;
  }
  out << "does not fit into " << DecimalBytes(plan.available_bytes());
  if (plan.advice().empty()) {
    out << ", and no change would make it smaller\n";
    return;
  }
  const bool fits = plan.advice().rbegin()->fits();
  out << (fits ? "; it does with these, cheapest first\n" : ", not even with all of these\n");
  Table table({"CHANGE", "TOTAL THEN", "COST"});
  for (const v1::MemoryAdvice& advice : plan.advice()) {
    std::string change;
    for (const std::string& setting : advice.settings())
      absl::StrAppend(&change, change.empty() ? "--" : " --", setting);
    table.Row({change, DecimalBytes(advice.total_bytes()), advice.cost()});
  }
  out << table.Text();
}

Chart ChartOf(const v1::PlanMemoryResponse& plan) {
  Chart chart;
  chart.title = absl::StrCat("memory, ", DecimalBytes(plan.total_bytes()));
  chart.y_label = "GB";
  Series bars;
  bars.style = Series::Style::kBars;
  for (const v1::MemoryItem& item : plan.items()) {
    bars.points.push_back(
        {static_cast<double>(bars.points.size()), static_cast<double>(item.bytes()) / 1e9});
    bars.labels.push_back(item.kind());
  }
  chart.series.push_back(std::move(bars));
  return chart;
}

absl::StatusOr<int> RunPlanMemory(Session& session, const Arguments& arguments) {
  v1::PlanMemoryRequest request;
  ASSIGN_OR_RETURN(*request.mutable_spec(), PlanSpecOf(arguments));
  if (arguments.Has("fit")) {
    ASSIGN_OR_RETURN(const int64_t bytes, ParseByteCount("fit", arguments.Text("fit")));
    request.set_available_bytes(bytes);
  }
  ASSIGN_OR_RETURN(const v1::PlanMemoryResponse plan,
                   PlansOnServer(arguments)
                       ? PlannerClient(session.connection()).PlanMemory(request)
                       : planner::PlanMemory(request));
  if (session.json()) {
    session.PrintJson(plan);
  } else {
    PrintItems(plan, session.out());
    PrintFacts(plan, session.out());
    PrintAdvice(plan, session.out());
  }
  RETURN_IF_ERROR(ShowChart(session, arguments, ChartOf(plan)));
  return 0;
}

}  // namespace

Command PlanMemoryCommand() {
  std::vector<Option> options = PlanSpecOptions();
  options.push_back({"fit", OptionType::kText, "BYTES",
                     "say what to change, cheapest first, until it fits, such as 48GB",
                     "with --server, what its device has free"});
  return {.path = "plan memory",
          .summary = "Says what a model and a job take of memory, before either exists",
          .options = std::move(options),
          .examples = {{"loractl plan memory --model=llama-65b --precision=fp32 --mode=full", ""},
                       {"loractl plan memory --model=llama-3-8b --batch=4 --fit=24GB", ""},
                       {"loractl plan memory --server=localhost --batch=8",
                        "of the server's model, in its free memory"}},
          .run = RunPlanMemory};
}

}  // namespace lorad::client::cli
