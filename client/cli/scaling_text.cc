#include "client/cli/scaling_text.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/format.h"
#include "client/cli/table.h"

namespace lorad::client::cli {
namespace {

std::string SymbolOf(v1::ScalingVariable variable) {
  return variable == v1::SCALING_VARIABLE_PARAMETERS ? "N"
         : variable == v1::SCALING_VARIABLE_TOKENS   ? "D"
                                                     : "C";
}

std::string FormulaOf(const v1::ScalingLawFit& fit) {
  const std::string x = SymbolOf(fit.variables(0));
  switch (fit.form()) {
    case v1::SCALING_FORM_CHINCHILLA:
      return "L = E + A / N^alpha + B / D^beta";
    case v1::SCALING_FORM_KAPLAN:
      return absl::StrCat("L = (", x, "c / ", x, ")^alpha_", x);
    default:
      return absl::StrCat("L = E + A / ", x, "^alpha");
  }
}

std::string EstimateText(const v1::ScalingEstimate& estimate) {
  return absl::StrCat(FormatSignificant(estimate.value()), " (",
                      FormatSignificant(estimate.lower()), " to ",
                      FormatSignificant(estimate.upper()), ")");
}

std::string LossText(const v1::ScalingLoss& loss) {
  std::string text = EstimateText(loss.loss());
  if (!loss.has_irreducible()) return text;
  absl::StrAppend(&text, " = ", FormatSignificant(loss.irreducible().value()), " irreducible + ",
                  EstimateText(loss.reducible()), " reducible");
  return text;
}

template <typename Warnings>
void AppendWarnings(const Warnings& warnings, std::string& out) {
  for (const v1::ScalingWarning& warning : warnings) {
    absl::StrAppend(&out, "warning: ", Printable(warning.message()), "\n");
  }
}

std::string ParametersTable(const v1::ScalingLawFit& fit) {
  Table table({"PARAMETER", "VALUE", "FROM", "TO"});
  for (const v1::ScalingParameter& parameter : fit.parameters()) {
    const v1::ScalingEstimate& estimate = parameter.estimate();
    table.Row({parameter.name(), FormatSignificant(estimate.value()),
               FormatSignificant(estimate.lower()), FormatSignificant(estimate.upper())});
  }
  return table.Text();
}

void AppendOptimum(const v1::ComputeOptimum& optimum, std::string& out) {
  absl::StrAppend(&out, "\nbudget of ", FormatSignificant(optimum.compute_flops()), " FLOPs\n");
  std::vector<std::pair<std::string, std::string>> pairs;
  if (optimum.has_parameters()) {
    pairs = {{"  parameters", EstimateText(optimum.parameters())},
             {"  tokens", EstimateText(optimum.tokens())},
             {"  tokens per parameter", EstimateText(optimum.tokens_per_parameter())}};
  }
  pairs.emplace_back("  loss", LossText(optimum.loss()));
  absl::StrAppend(&out, KeyValues(pairs));
  AppendWarnings(optimum.warnings(), out);
}

void AppendPrediction(const v1::LossPrediction& prediction, std::string& out) {
  const v1::ScalingPoint& point = prediction.point();
  absl::StrAppend(&out, "\nrun with");
  if (point.parameters() > 0) absl::StrAppend(&out, " N ", FormatSignificant(point.parameters()));
  if (point.tokens() > 0) absl::StrAppend(&out, " D ", FormatSignificant(point.tokens()));
  if (point.compute_flops() > 0) {
    absl::StrAppend(&out, " C ", FormatSignificant(point.compute_flops()));
  }
  absl::StrAppend(&out, "\n", KeyValues({{"  loss", LossText(prediction.loss())}}));
  AppendWarnings(prediction.warnings(), out);
}

std::string FitText(const v1::ScalingLawFit& fit, double confidence) {
  std::string out = absl::StrFormat("%s: %s from %d points, which scatter by %s %% of the loss\n",
                                    Printable(fit.name()), FormulaOf(fit), fit.points_size(),
                                    FormatSignificant(100 * fit.noise()));
  absl::StrAppend(&out, ParametersTable(fit), "intervals hold all of them together with ",
                  FormatSignificant(100 * confidence), " % confidence\n");
  AppendWarnings(fit.warnings(), out);
  for (const v1::ComputeOptimum& optimum : fit.optima()) AppendOptimum(optimum, out);
  for (const v1::LossPrediction& prediction : fit.predictions()) AppendPrediction(prediction, out);
  return out;
}

// --- two families ---

const std::string& NameOf(v1::ScalingFamilyIndex index, const v1::FitScalingLawResponse& reply) {
  return index == v1::SCALING_FAMILY_INDEX_FIRST ? reply.family().name() : reply.compare().name();
}

std::string StandingText(const v1::ScalingStanding& standing, const std::string& symbol,
                         const v1::FitScalingLawResponse& reply) {
  return absl::StrFormat("%s has less loss at %s = %s (%s %% of the draws)\n",
                         Printable(NameOf(standing.ahead(), reply)), symbol,
                         FormatSignificant(standing.at()),
                         FormatSignificant(100 * standing.share()));
}

std::string ComparisonText(const v1::FitScalingLawResponse& reply) {
  const v1::ScalingComparison& comparison = reply.comparison();
  const std::string symbol = SymbolOf(comparison.variable());
  std::string out = absl::StrCat(
      "\nslopes of the reducible loss in ", symbol, "\n",
      KeyValues(
          {{absl::StrCat("  ", reply.family().name()), EstimateText(comparison.first_slope())},
           {absl::StrCat("  ", reply.compare().name()), EstimateText(comparison.second_slope())},
           {"  difference", EstimateText(comparison.slope_difference())}}));
  absl::StrAppend(&out,
                  comparison.steeper() == v1::SCALING_FAMILY_INDEX_UNSPECIFIED
                      ? "the points do not tell which is steeper"
                      : absl::StrCat(Printable(NameOf(comparison.steeper(), reply)), " is steeper"),
                  "\n");
  for (const v1::ScalingCrossing& crossing : comparison.crossings()) {
    absl::StrAppend(&out, "they cross at ", symbol, " = ", EstimateText(crossing.at()), ", loss ",
                    FormatSignificant(crossing.loss()), "; beyond it ",
                    Printable(NameOf(crossing.ahead_beyond(), reply)), " has less (",
                    FormatSignificant(100 * crossing.share()), " % of the draws cross so)\n");
  }
  if (comparison.crossings().empty()) absl::StrAppend(&out, "they do not cross\n");
  for (const v1::ScalingStanding& standing : comparison.standings()) {
    absl::StrAppend(&out, StandingText(standing, symbol, reply));
  }
  absl::StrAppend(&out, "in the long run ", StandingText(comparison.long_run(), symbol, reply));
  AppendWarnings(comparison.warnings(), out);
  return out;
}

// --- the chart ---

double ValueOf(const v1::ScalingPoint& point, v1::ScalingVariable variable) {
  return variable == v1::SCALING_VARIABLE_PARAMETERS ? point.parameters()
         : variable == v1::SCALING_VARIABLE_TOKENS   ? point.tokens()
                                                     : point.compute_flops();
}

Series PointsOf(const v1::ScalingLawFit& fit) {
  Series series{.name = fit.name(), .style = Series::Style::kPoints};
  for (const v1::FittedPoint& point : fit.points()) {
    const double x = ValueOf(point.point(), fit.frontier().variable());
    series.points.emplace_back(x > 0 ? x : std::nan(""), point.point().loss());
  }
  return series;
}

Series LineOf(const v1::ScalingLawFit& fit, double from, double to) {
  constexpr int kSteps = 100;
  const v1::ScalingFrontier& frontier = fit.frontier();
  Series series{.name = absl::StrCat(fit.name(), ", least loss"), .style = Series::Style::kLine};
  for (int i = 0; i <= kSteps; ++i) {
    const double log_x = std::log(from) + (std::log(to) - std::log(from)) * i / kSteps;
    const double loss =
        frontier.irreducible() + std::exp(frontier.log_coefficient() - frontier.exponent() * log_x);
    series.points.emplace_back(std::exp(log_x), loss);
  }
  return series;
}

}  // namespace

std::string ScalingText(const v1::FitScalingLawResponse& reply, double confidence) {
  std::string out = FitText(reply.family(), confidence);
  if (reply.has_compare()) absl::StrAppend(&out, "\n", FitText(reply.compare(), confidence));
  if (reply.has_comparison()) absl::StrAppend(&out, ComparisonText(reply));
  return out;
}

Chart ScalingChart(const v1::FitScalingLawResponse& reply) {
  const v1::ScalingVariable variable = reply.family().frontier().variable();
  Chart chart{.title = "Scaling law",
              .x_label = variable == v1::SCALING_VARIABLE_PARAMETERS ? "parameters"
                         : variable == v1::SCALING_VARIABLE_TOKENS   ? "training tokens"
                                                                     : "training FLOPs",
              .y_label = "loss, nats a token",
              .log_x = true,
              .log_y = true,
              .series = {}};
  std::vector<const v1::ScalingLawFit*> fits = {&reply.family()};
  if (reply.has_compare()) fits.push_back(&reply.compare());
  double from = INFINITY, to = 0;
  for (const v1::ScalingLawFit* fit : fits) {
    chart.series.push_back(PointsOf(*fit));
    for (const auto& [x, loss] : chart.series.back().points) {
      if (!std::isfinite(x)) continue;
      from = std::min(from, x);
      to = std::max(to, x);
    }
    for (const v1::ComputeOptimum& optimum : fit->optima()) {
      from = std::min(from, optimum.compute_flops());
      to = std::max(to, optimum.compute_flops());
    }
  }
  for (const v1::ScalingLawFit* fit : fits) chart.series.push_back(LineOf(*fit, from, to));
  return chart;
}

}  // namespace lorad::client::cli
