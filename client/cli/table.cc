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
  return cell == "-" || absl::SimpleAtod(cell, &value);
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
  std::vector<bool> right(header_.size(), lines.size() > 1);
  for (size_t i = 0; i < lines.size(); ++i) {
    for (size_t j = 0; j < widths.size(); ++j) {
      widths[j] = std::max(widths[j], Width(lines[i][j]));
      if (i > 0 && !IsNumber(lines[i][j])) right[j] = false;
    }
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
