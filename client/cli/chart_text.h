// The words of a chart, made fit to be shown. Internal to the charts.
#ifndef LORAD_CLIENT_CLI_CHART_TEXT_H_
#define LORAD_CLIENT_CLI_CHART_TEXT_H_

#include <string>
#include <string_view>

#include "client/cli/chart.h"

namespace lorad::client::cli {

// `text` as UTF-8 without control characters.
std::string ChartText(std::string_view text);

// Columns that `text` (UTF-8) takes: one for each character.
int Columns(std::string_view text);

// `text` cut to `columns` (>= 2), with ".." at its end if something is missing.
std::string Shortened(const std::string& text, int columns);

// The label of bar `i`; empty when the series has no labels.
std::string BarLabel(const Series& series, size_t i);

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_CHART_TEXT_H_
