#include "engine/io/json.h"

#include <algorithm>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/json_check.h"
#include "engine/io/text.h"
#include "engine/io/utf8.h"
#include "nlohmann/json.hpp"

namespace lorad {
namespace {

// Walks a document without building it; finds what the builder would swallow.
class StrictHandler : public JsonHandler {
 public:
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return Deeper();
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override { return Deeper(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& key) override {
    if (keys_.back().insert(key).second) return true;
    return Fail(absl::StrCat("the key \"", ClippedText(key), "\" is given twice in one object"));
  }

 private:
  bool Deeper() {
    if (++depth_ <= kMaxJsonDepth) return true;
    return Fail(absl::StrCat("nesting is deeper than ", kMaxJsonDepth));
  }

  int depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;
};

}  // namespace

bool JsonHandler::parse_error(std::size_t position, const std::string& last_token,
                              const nlohmann::detail::exception& exception) {
  // "[json.exception...] parse error at line 1, column 2: syntax error ...": the position is ours.
  const std::string_view what = exception.what();
  const size_t start = what.find("syntax error");
  error_ = start == std::string_view::npos
               ? absl::StrCat("cannot read '", ClippedText(last_token), "'")
               : ClippedText(what.substr(start));
  has_position_ = true;
  position_ = position == 0 ? 0 : position - 1;
  return false;
}

std::string ClippedText(std::string_view text) {
  constexpr size_t kMaxShown = 120;
  std::string shown;
  while (!text.empty() && shown.size() < kMaxShown) {
    const Utf8Step step = NextUtf8(text);
    const bool printable = step.kind == Utf8Step::Kind::kCharacter && step.code_point >= 0x20 &&
                           step.code_point != 0x7F;
    const size_t length = printable ? step.length : 1;
    shown += printable ? std::string(text.substr(0, length))
                       : absl::StrFormat("\\x%02x", static_cast<unsigned char>(text[0]));
    text.remove_prefix(length);
  }
  return text.empty() ? shown : shown + "...";
}

std::string JsonPosition(std::string_view text, size_t offset) {
  const std::string_view before = text.substr(0, offset);
  const size_t line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t newline = before.rfind('\n');
  const size_t column = newline == std::string_view::npos ? offset + 1 : offset - newline;
  return absl::StrCat("line ", line, ", column ", column);
}

absl::Status CheckJson(std::string_view text, std::string_view where, JsonHandler* handler) {
  // The parser would take a NUL for the end of the text and skip a BOM.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos)
    return absl::InvalidArgumentError(
        absl::StrCat(AbslView(where), ": NUL byte at ", JsonPosition(text, nul)));
  if (text.substr(0, 3) == "\xEF\xBB\xBF")
    return absl::InvalidArgumentError(absl::StrCat(
        AbslView(where), ": starts with a byte order mark; save it as UTF-8 without one"));
  if (nlohmann::json::sax_parse(text.begin(), text.end(), handler)) return absl::OkStatus();
  const std::string position =
      handler->has_position()
          ? absl::StrCat(" at ", JsonPosition(text, std::min(handler->position(), text.size())))
          : "";
  return absl::InvalidArgumentError(
      absl::StrCat(AbslView(where), ": ", handler->error(), position));
}

absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view where) {
  StrictHandler handler;
  RETURN_IF_ERROR(CheckJson(text, where, &handler));
  return nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ParseJson(text, path);
}

}  // namespace lorad
