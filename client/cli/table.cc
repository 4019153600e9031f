#include "client/cli/table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace lorad::client::cli {
namespace {

// Characters, not bytes: continuation bytes of UTF-8 take no room.
size_t Width(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

void AppendCell(std::string& line, const std::string& cell, size_t width, bool right, bool last) {
  const std::string padding(width - std::min(width, Width(cell)), ' ');
  if (right) absl::StrAppend(&line, padding, cell);
  if (!right) absl::StrAppend(&line, cell, last ? "" : padding);
  if (!last) line += "  ";
}

bool IsNumber(const std::string& cell) {
  double value;
  return absl::SimpleAtod(cell, &value);
}

// All cells of column `j` below the header are numbers or empty, and one at least is a number.
bool IsNumeric(const std::vector<std::vector<std::string>>& lines, size_t j) {
  bool numbers = false;
  for (size_t i = 1; i < lines.size(); ++i) {
    if (!IsNumber(lines[i][j]) && lines[i][j] != "-") return false;
    numbers = numbers || IsNumber(lines[i][j]);
  }
  return numbers;
}

}  // namespace

std::string Printable(const std::string& text) {
  std::string out = text;
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return out;
}

std::string Table::Text() const {
  std::vector<std::vector<std::string>> lines = {header_};
  for (const auto& row : rows_) {
    lines.emplace_back();
    for (const std::string& cell : row)
      lines.back().push_back(cell.empty() ? "-" : Printable(cell));
  }
  std::vector<size_t> widths(header_.size());
  std::vector<bool> right(header_.size());
  for (size_t j = 0; j < widths.size(); ++j) {
    for (const auto& cells : lines) widths[j] = std::max(widths[j], Width(cells[j]));
    right[j] = IsNumeric(lines, j);
  }
  std::string out;
  for (const auto& cells : lines) {
    std::string line;
    for (size_t j = 0; j < cells.size(); ++j) {
      AppendCell(line, cells[j], widths[j], right[j], j + 1 == cells.size());
    }
    absl::StrAppend(&out, line, "\n");
  }
  return out;
}

std::string KeyValues(const std::vector<std::pair<std::string, std::string>>& pairs) {
  size_t width = 0;
  for (const auto& [key, value] : pairs) width = std::max(width, Width(key));
  std::string out;
  for (const auto& [key, value] : pairs) {
    std::string line;
    AppendCell(line, key, width, /*right=*/false, /*last=*/false);
    absl::StrAppend(&out, line, Printable(value), "\n");
  }
  return out;
}

}  // namespace lorad::client::cli
