#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/chart.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/cli/plan_flags.h"
#include "client/cli/session.h"
#include "client/cli/table.h"
#include "client/planner.h"
#include "engine/core/status_macros.h"
#include "proto/planner/flops.h"

namespace lorad::client::cli {
namespace {

using v1::FlopAccount;

absl::StatusOr<v1::CountFlopsRequest> FlopsRequestOf(const Arguments& arguments) {
  v1::CountFlopsRequest request;
  ASSIGN_OR_RETURN(*request.mutable_spec(), PlanSpecOf(arguments));
  request.mutable_spec()->clear_device();  // here a card's name
  request.set_first_layer(arguments.Int("first_layer"));
  if (arguments.Has("rate")) request.set_flops_per_second(arguments.Double("rate"));
  if (arguments.Has("step_seconds")) request.set_measured_seconds(arguments.Double("step_seconds"));
  request.set_card(arguments.Text("device"));
  return request;
}

// "12.34 T"
std::string FlopText(double flops) {
  constexpr const char* kPrefixes[] = {"", " k", " M", " G", " T", " P", " E"};
  size_t prefix = 0;
  for (; flops >= 999.5 && prefix + 1 < std::size(kPrefixes); ++prefix) flops /= 1000;
  return absl::StrCat(FormatSignificant(flops), kPrefixes[prefix]);
}
std::string FlopText(int64_t flops) { return FlopText(static_cast<double>(flops)); }

std::string SecondsText(double seconds) {
  return seconds < 1 ? absl::StrCat(FormatSignificant(1000 * seconds), " ms")
                     : FormatSeconds(seconds);
}

std::string WorkText(const FlopAccount& account) {
  const std::string tokens = absl::StrCat(account.tokens());
  switch (account.work()) {
    case FlopAccount::WORK_PREFILL:
      return absl::StrCat("prompts of ", tokens, " tokens");
    case FlopAccount::WORK_DECODE:
      return absl::StrCat("a token more of ", tokens,
                          account.tokens() == 1 ? " sequence" : " sequences");
    default:
      return absl::StrCat("an optimiser step of ", tokens, " tokens");
  }
}

// Of one operation; 0 where an account does not have it.
int64_t TotalOf(const FlopAccount& account, const std::string& operation) {
  for (const v1::OperationFlops& op : account.operations())
    if (op.operation() == operation) return op.total();
  return 0;
}

// `account` operation by operation, beside the totals of `other` where there is one.
std::string AccountTable(const FlopAccount& account, const FlopAccount* other) {
  std::vector<std::string> header = {"OPERATION", "FORWARD", "BACKWARD",
                                     "RECOMPUTE", "TOTAL",   "SHARE"};
  if (other != nullptr) header.push_back("TEXTBOOK");
  Table table(header);
  const auto row = [&](const std::string& name, const auto& flops, int64_t textbook) {
    const double share = static_cast<double>(flops.total()) /
                         static_cast<double>(std::max<int64_t>(1, account.total()));
    std::vector<std::string> cells = {name,
                                      FlopText(flops.forward()),
                                      FlopText(flops.backward()),
                                      FlopText(flops.recompute()),
                                      FlopText(flops.total()),
                                      absl::StrFormat("%.2f %%", 100 * share)};
    if (other != nullptr) cells.push_back(FlopText(textbook));
    table.Row(cells);
  };
  for (const v1::OperationFlops& op : account.operations())
    row(op.operation(), op, other == nullptr ? 0 : TotalOf(*other, op.operation()));
  row("all", account, other == nullptr ? 0 : other->total());
  return table.Text();
}

std::string TimesText(const FlopAccount& account, double peak) {
  std::vector<std::pair<std::string, std::string>> lines = {
      {"a token", FlopText(static_cast<double>(account.total()) /
                           static_cast<double>(std::max<int64_t>(1, account.tokens())))}};
  if (account.has_flops_per_second())
    lines.push_back({"rate", absl::StrCat(FlopText(account.flops_per_second()), "FLOP/s")});
  if (account.has_seconds()) lines.push_back({"time at that rate", SecondsText(account.seconds())});
  if (account.has_seconds_at_peak())
    lines.push_back({"time at the bound", absl::StrCat(SecondsText(account.seconds_at_peak()),
                                                       " at ", FlopText(peak), "FLOP/s")});
  if (account.has_share_of_peak())
    lines.push_back(
        {"share of the bound", absl::StrFormat("%.1f %%", 100 * account.share_of_peak())});
  return KeyValues(lines);
}

// A bar for each operation, the longest first.
Chart BarsOf(const FlopAccount& account) {
  std::vector<v1::OperationFlops> operations(account.operations().begin(),
                                             account.operations().end());
  std::stable_sort(operations.begin(), operations.end(),
                   [](const auto& a, const auto& b) { return a.total() > b.total(); });
  Series bars{.name = "", .style = Series::Style::kBars};
  for (const v1::OperationFlops& op : operations) {
    bars.points.push_back(
        {static_cast<double>(bars.points.size()), static_cast<double>(op.total()) / 1e12});
    bars.labels.push_back(op.operation());
  }
  return {.title = absl::StrCat("Operations of ", WorkText(account)),
          .x_label = "",
          .y_label = "TFLOP",
          .series = {bars}};
}

// The engine's accounts, each behind the textbook's of the same work; the textbook's where the
// engine has none.
std::vector<int> Shown(const v1::CountFlopsResponse& response) {
  std::vector<int> shown;
  for (int i = 0; i < response.accounts_size(); ++i) {
    const bool engine_next = i + 1 < response.accounts_size() &&
                             response.accounts(i + 1).rules() == FlopAccount::RULES_ENGINE;
    if (!engine_next) shown.push_back(i);
  }
  return shown;
}

void PrintFlops(const v1::CountFlopsResponse& response, std::ostream& out) {
  out << FormatCount(response.parameters()) << " parameters";
  if (response.trained_parameters() > 0)
    out << ", " << FormatCount(response.trained_parameters()) << " trained";
  out << "; " << response.spec().mode() << ", " << response.spec().precision();
  if (!response.spec().activations().empty())
    out << ", activations " << response.spec().activations();
  out << "\n";
  for (const int i : Shown(response)) {
    const FlopAccount& account = response.accounts(i);
    const bool engine = account.rules() == FlopAccount::RULES_ENGINE;
    out << "\n"
        << WorkText(account) << (engine ? ", as lorad runs it" : ", by the textbook's rules")
        << "\n"
        << AccountTable(account, engine ? &response.accounts(i - 1) : nullptr)
        << TimesText(account, response.peak_flops_per_second());
  }
}

absl::StatusOr<int> RunPlanFlops(Session& session, const Arguments& arguments) {
  ASSIGN_OR_RETURN(const v1::CountFlopsRequest request, FlopsRequestOf(arguments));
  ASSIGN_OR_RETURN(const v1::CountFlopsResponse response,
                   PlansOnServer(arguments)
                       ? PlannerClient(session.connection()).CountFlops(request)
                       : planner::CountFlops(request));
  if (session.json())
    session.PrintJson(response);
  else
    PrintFlops(response, session.out());
  const FlopAccount& first = response.accounts(Shown(response).front());
  RETURN_IF_ERROR(ShowChart(session, arguments, BarsOf(first)));
  return 0;
}

// Those of every plan but whose sums: both are shown, and no backend is asked for.
std::vector<Option> FlopsOptions() {
  std::vector<Option> options;
  for (Option& option : PlanSpecOptions())
    if (option.name != "account" && option.name != "device") options.push_back(std::move(option));
  options.push_back({"first_layer", OptionType::kInt, "N", "layers below are not adapted", "0"});
  options.push_back(
      {"rate", OptionType::kDouble, "FLOPS", "operations per second to work out times at", "none"});
  options.push_back({"step_seconds", OptionType::kDouble, "SECONDS",
                     "a measured training step instead: what rate it reached", "none"});
  options.push_back({"device", OptionType::kText, "CARD",
                     "whose peak is the bound: h100, h200, a100, ...", "none"});
  return options;
}

}  // namespace

Command PlanFlopsCommand() {
  return {.path = "plan flops",
          .summary = "Counts the operations of a training step or of inference, and their time",
          .options = FlopsOptions(),
          .examples = {{"loractl plan flops --model=llama-65b --batch=4 --rank=64", ""},
                       {"loractl plan flops --model=llama-3-8b --rate=6e14 --device=h200", ""},
                       {"loractl plan flops --model=DIR --mode=inference --output=json", ""}},
          .run = RunPlanFlops};
}

}  // namespace lorad::client::cli
