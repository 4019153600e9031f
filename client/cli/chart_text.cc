#include "client/cli/chart_text.h"

#include <algorithm>

#include "client/cli/table.h"
#include "engine/io/utf8.h"

namespace lorad::client::cli {

std::string ChartText(std::string_view text) {
  std::string valid;
  Utf8Assembler assembler;
  assembler.Push(text, &valid);
  assembler.Finish(&valid);
  return Printable(valid);
}

int Columns(std::string_view text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string Shortened(const std::string& text, int columns) {
  if (Columns(text) <= columns) return text;
  size_t end = 0;
  for (int shown = 0; end < text.size(); ++end) {
    const bool starts = (text[end] & 0xC0) != 0x80;
    if (starts && shown++ == columns - 2) break;
  }
  return text.substr(0, end) + "..";
}

std::string BarLabel(const Series& series, size_t i) {
  return series.labels.empty() ? "" : ChartText(series.labels[i]);
}

}  // namespace lorad::client::cli
