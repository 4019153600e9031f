#include "client/cli/scaling_points.h"

#include <cmath>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/json.h"
#include "nlohmann/json.hpp"

namespace lorad::client::cli {
namespace {

constexpr int64_t kMaxPointsFileBytes = 64 << 20;

using Setter = void (v1::ScalingPoint::*)(double);

// What a column's name sets; null: nothing.
Setter SetterOf(absl::string_view name) {
  static const auto* const setters = new std::map<std::string, Setter>{
      {"parameters", &v1::ScalingPoint::set_parameters},
      {"params", &v1::ScalingPoint::set_parameters},
      {"n", &v1::ScalingPoint::set_parameters},
      {"tokens", &v1::ScalingPoint::set_tokens},
      {"d", &v1::ScalingPoint::set_tokens},
      {"compute_flops", &v1::ScalingPoint::set_compute_flops},
      {"compute", &v1::ScalingPoint::set_compute_flops},
      {"flops", &v1::ScalingPoint::set_compute_flops},
      {"c", &v1::ScalingPoint::set_compute_flops},
      {"loss", &v1::ScalingPoint::set_loss},
      {"l", &v1::ScalingPoint::set_loss},
  };
  const auto it = setters->find(absl::AsciiStrToLower(absl::StripAsciiWhitespace(name)));
  return it == setters->end() ? nullptr : it->second;
}

absl::Status NoNumber(const std::string& where, absl::string_view name, absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": ", name, " is \"", text, "\", which is no finite number"));
}

absl::Status SetText(absl::string_view name, Setter setter, absl::string_view text,
                     const std::string& where, v1::ScalingPoint& point) {
  double value;
  if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) return NoNumber(where, name, text);
  (point.*setter)(value);
  return absl::OkStatus();
}

// A line of text with its place.
struct Line {
  std::string where;
  absl::string_view text;
};

std::vector<Line> LinesOf(absl::string_view content, const std::string& path) {
  std::vector<Line> lines;
  int64_t number = 0;
  for (const absl::string_view line : absl::StrSplit(content, '\n')) {
    ++number;
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (text.empty() || text[0] == '#') continue;
    lines.push_back({absl::StrCat(path, ":", number), text});
  }
  return lines;
}

absl::Status ReadCsv(const std::vector<Line>& lines, v1::ScalingFamily& family) {
  if (lines.empty()) return absl::OkStatus();
  const std::vector<std::string> names = absl::StrSplit(lines[0].text, ',');
  bool has_loss = false;
  for (const std::string& name : names) {
    has_loss |= SetterOf(name) == &v1::ScalingPoint::set_loss;
  }
  if (!has_loss) {
    return absl::InvalidArgumentError(absl::StrCat(
        lines[0].where, ": the first line must name the columns, \"loss\" among them"));
  }
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::vector<absl::string_view> cells = absl::StrSplit(lines[i].text, ',');
    if (cells.size() != names.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          lines[i].where, ": ", cells.size(), " cells, the first line names ", names.size()));
    }
    v1::ScalingPoint& point = *family.add_points();
    for (size_t c = 0; c < cells.size(); ++c) {
      const Setter setter = SetterOf(names[c]);
      const absl::string_view cell = absl::StripAsciiWhitespace(cells[c]);
      if (setter == nullptr || cell.empty()) continue;
      RETURN_IF_ERROR(SetText(names[c], setter, cell, lines[i].where, point));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadJsonLines(const std::vector<Line>& lines, v1::ScalingFamily& family) {
  for (const Line& line : lines) {
    ASSIGN_OR_RETURN(const nlohmann::json object,
                     ParseJson(std::string_view(line.text.data(), line.text.size()), line.where));
    if (!object.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(line.where, ": not a JSON object"));
    }
    v1::ScalingPoint& point = *family.add_points();
    for (const auto& [name, value] : object.items()) {
      const Setter setter = SetterOf(name);
      if (setter == nullptr || value.is_null()) continue;
      if (!value.is_number() || !std::isfinite(value.get<double>())) {
        return NoNumber(line.where, name, value.dump());
      }
      (point.*setter)(value.get<double>());
    }
  }
  return absl::OkStatus();
}

std::string StemOf(absl::string_view path) {
  const absl::string_view file = path.substr(path.find_last_of('/') + 1);
  return std::string(file.substr(0, file.find_last_of('.')));
}

}  // namespace

absl::StatusOr<v1::ScalingFamily> ReadScalingFamily(const std::string& path) {
  const bool csv = absl::EndsWithIgnoreCase(path, ".csv");
  if (!csv && !absl::EndsWithIgnoreCase(path, ".jsonl")) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": points are read from files that end in .csv or .jsonl"));
  }
  ASSIGN_OR_RETURN(const std::string content, ReadFile(path, kMaxPointsFileBytes));
  v1::ScalingFamily family;
  family.set_name(StemOf(path));
  const std::vector<Line> lines = LinesOf(content, path);
  RETURN_IF_ERROR(csv ? ReadCsv(lines, family) : ReadJsonLines(lines, family));
  if (family.points().empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": no points"));
  return family;
}

absl::StatusOr<v1::ScalingPoint> ParseScalingPoint(std::string_view text) {
  v1::ScalingPoint point;
  for (const absl::string_view part :
       absl::StrSplit(absl::string_view(text.data(), text.size()), ',')) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const Setter setter = SetterOf(pair.first);
    if (setter == nullptr || setter == &v1::ScalingPoint::set_loss) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", part, "\" is not of the form N=7e9, D=1.4e11 or C=6e21"));
    }
    RETURN_IF_ERROR(
        SetText(pair.first, setter, pair.second, absl::StrCat("\"", part, "\""), point));
  }
  return point;
}

}  // namespace lorad::client::cli
