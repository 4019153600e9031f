#include "engine/io/tokenizer/decoder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/json_check.h"
#include "engine/io/tokenizer/json_fields.h"
#include "engine/io/tokenizer/unicode.h"

namespace lorad {
namespace {

constexpr std::string_view kReplacementChar = "\xEF\xBF\xBD";

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// The byte of "<0x0A>".
std::optional<char> ByteOfToken(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  const int high = HexDigit(token[3]), low = HexDigit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

std::string ReplaceLiteral(std::string_view text, std::string_view pattern,
                           std::string_view content) {
  std::string replaced;
  size_t done = 0;
  for (size_t at = text.find(pattern); at != std::string_view::npos;
       at = text.find(pattern, done)) {
    replaced.append(text.substr(done, at - done)).append(content);
    done = at + pattern.size();
  }
  return replaced.append(text.substr(done));
}

std::string_view StripToken(std::string_view token, std::string_view content, int start, int stop) {
  for (int i = 0; i < start && token.substr(0, content.size()) == content; ++i)
    token.remove_prefix(content.size());
  for (int i = 0; i < stop && token.size() >= content.size() &&
                  token.substr(token.size() - content.size()) == content;
       ++i)
    token.remove_suffix(content.size());
  return token;
}

}  // namespace

absl::StatusOr<Decoder> Decoder::FromJson(const nlohmann::json* json, const std::string& where) {
  Decoder decoder;
  if (json == nullptr) {
    decoder.stages_.emplace_back(JoinWithSpaces{});
    return decoder;
  }
  RETURN_IF_ERROR(decoder.Add(*json, where));
  return decoder;
}

absl::Status Decoder::Add(const nlohmann::json& json, const std::string& where) {
  ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", where));
  const std::string place = absl::StrCat(where, ": ", ClippedText(type));
  if (type == "Sequence") {
    RETURN_IF_ERROR(CheckFields(json, {"type", "decoders"}, place));
    ASSIGN_OR_RETURN(const nlohmann::json* stages, ArrayField(json, "decoders", place));
    for (const nlohmann::json& stage : *stages) RETURN_IF_ERROR(Add(stage, place));
    return absl::OkStatus();
  }
  if (type == "Strip") return AddStrip(json, place);
  if (fused_ && type != "Fuse")
    return absl::UnimplementedError(absl::StrCat(
        place,
        " after Fuse or ByteLevel is not supported: it would have to wait for the whole text"));
  if (type == "Metaspace") return AddMetaspace(json, place);
  if (type == "Replace") {
    RETURN_IF_ERROR(CheckFields(json, {"type", "pattern", "content"}, place));
    const nlohmann::json* pattern = FindField(json, "pattern");
    if (pattern == nullptr || !pattern->is_object() || FindField(*pattern, "String") == nullptr)
      return absl::UnimplementedError(absl::StrCat(place, ": only a String pattern is supported"));
    ASSIGN_OR_RETURN(std::string text, StringField(*pattern, "String", place));
    ASSIGN_OR_RETURN(std::string content, StringField(json, "content", place));
    if (text.empty()) return absl::InvalidArgumentError(absl::StrCat(place, ": String is empty"));
    stages_.emplace_back(Replace{std::move(text), std::move(content)});
    return absl::OkStatus();
  }
  if (type == "ByteLevel") {
    // Its options concern encoding.
    RETURN_IF_ERROR(
        CheckFields(json, {"type", "add_prefix_space", "trim_offsets", "use_regex"}, place));
    stages_.emplace_back(ByteLevel{});
    fused_ = true;
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckFields(json, {"type"}, place));
  if (type == "ByteFallback") {
    stages_.emplace_back(ByteFallback{});
  } else if (type == "Fuse") {
    stages_.emplace_back(Fuse{});
    fused_ = true;
  } else {
    return absl::UnimplementedError(absl::StrCat(place, " is not supported"));
  }
  return absl::OkStatus();
}

absl::Status Decoder::AddStrip(const nlohmann::json& json, const std::string& where) {
  RETURN_IF_ERROR(CheckFields(json, {"type", "content", "start", "stop"}, where));
  Strip strip;
  ASSIGN_OR_RETURN(const char32_t content, CharField(json, "content", where));
  AppendUtf8(content, &strip.content);
  ASSIGN_OR_RETURN(strip.start, IntField(json, "start", where));
  ASSIGN_OR_RETURN(strip.stop, IntField(json, "stop", where));
  strip.fused = fused_;
  stages_.emplace_back(std::move(strip));
  return absl::OkStatus();
}

absl::Status Decoder::AddMetaspace(const nlohmann::json& json, const std::string& where) {
  RETURN_IF_ERROR(CheckFields(
      json, {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"},
      where));
  Metaspace metaspace;
  ASSIGN_OR_RETURN(const char32_t replacement, CharField(json, "replacement", where));
  AppendUtf8(replacement, &metaspace.replacement);
  ASSIGN_OR_RETURN(metaspace.drop_first, BoolField(json, "add_prefix_space", true, where));
  if (FindField(json, "prepend_scheme") != nullptr) {
    ASSIGN_OR_RETURN(const std::string scheme, StringField(json, "prepend_scheme", where));
    metaspace.drop_first = scheme != "never";
  }
  stages_.emplace_back(std::move(metaspace));
  return absl::OkStatus();
}

Decoder::State Decoder::NewState(bool continues) const {
  State state(stages_.size());
  for (StageState& stage : state) {
    stage.tokens = continues;
    stage.text_seen = continues;
  }
  return state;
}

std::string Decoder::BytesWithin(std::string_view token) const { return BytesFrom(0, token); }

std::string Decoder::BytesFrom(size_t index, std::string_view token) const {
  if (index == stages_.size()) return std::string(token);
  const Stage& stage = stages_[index];
  if (std::holds_alternative<JoinWithSpaces>(stage)) {
    return BytesFrom(index + 1, " ") + BytesFrom(index + 1, token);
  }
  if (std::holds_alternative<ByteFallback>(stage)) {
    // The later stages see a byte only within its run.
    if (const std::optional<char> byte = ByteOfToken(token)) return std::string(1, *byte);
  } else if (const auto* replace = std::get_if<Replace>(&stage)) {
    return BytesFrom(index + 1, ReplaceLiteral(token, replace->pattern, replace->content));
  } else if (std::holds_alternative<ByteLevel>(stage)) {
    std::string bytes;
    if (AppendByteLevelBytes(token, &bytes)) return BytesFrom(index + 1, bytes);
  } else if (const auto* strip = std::get_if<Strip>(&stage); strip != nullptr && !strip->fused) {
    return BytesFrom(index + 1, StripToken(token, strip->content, strip->start, strip->stop));
  } else if (const auto* metaspace = std::get_if<Metaspace>(&stage)) {
    return BytesFrom(index + 1, ReplaceLiteral(token, metaspace->replacement, " "));
  }
  return BytesFrom(index + 1, token);
}

bool Decoder::TrimsEnd() const {
  return std::any_of(stages_.begin(), stages_.end(), [](const Stage& stage) {
    const auto* strip = std::get_if<Strip>(&stage);
    return strip != nullptr && strip->fused && strip->stop > 0;
  });
}

void Decoder::Push(std::string_view token, State* state, std::string* out) const {
  Run(0, token, state, out);
}

void Decoder::Run(size_t index, std::string_view token, State* state, std::string* out) const {
  if (index == stages_.size()) {
    out->append(token);
    return;
  }
  const Stage& stage = stages_[index];
  StageState& mine = (*state)[index];
  if (std::holds_alternative<JoinWithSpaces>(stage)) {
    if (mine.tokens++ > 0) Run(index + 1, " ", state, out);
    Run(index + 1, token, state, out);
  } else if (const auto* replace = std::get_if<Replace>(&stage)) {
    Run(index + 1, ReplaceLiteral(token, replace->pattern, replace->content), state, out);
  } else if (std::holds_alternative<ByteFallback>(stage)) {
    if (const std::optional<char> byte = ByteOfToken(token)) {
      mine.bytes.push_back(*byte);
      return;
    }
    FlushBytes(index, state, out);
    Run(index + 1, token, state, out);
  } else if (std::holds_alternative<Fuse>(stage)) {
    Run(index + 1, token, state, out);
  } else if (std::holds_alternative<ByteLevel>(stage)) {
    std::string bytes, text;
    if (!AppendByteLevelBytes(token, &bytes)) bytes = std::string(token);
    mine.utf8.Push(bytes, &text);
    Run(index + 1, text, state, out);
  } else if (const auto* strip = std::get_if<Strip>(&stage)) {
    if (strip->fused) {
      StripFused(index, token, state, out);
    } else {
      Run(index + 1, StripToken(token, strip->content, strip->start, strip->stop), state, out);
    }
  } else {
    const auto& metaspace = std::get<Metaspace>(stage);
    const bool drop = mine.tokens++ == 0 && metaspace.drop_first;
    Run(index + 1, ReplaceLiteral(token, metaspace.replacement, drop ? "" : " "), state, out);
  }
}

// A run of byte tokens is text only as a whole: one bad byte makes U+FFFD of each.
void Decoder::FlushBytes(size_t index, State* state, std::string* out) const {
  std::string bytes;
  bytes.swap((*state)[index].bytes);
  if (bytes.empty()) return;
  if (FirstInvalidUtf8(bytes) == bytes.size()) {
    Run(index + 1, bytes, state, out);
    return;
  }
  for (size_t i = 0; i < bytes.size(); ++i) Run(index + 1, kReplacementChar, state, out);
}

void Decoder::StripFused(size_t index, std::string_view fragment, State* state,
                         std::string* out) const {
  const Strip& strip = std::get<Strip>(stages_[index]);
  StageState& mine = (*state)[index];
  std::string kept;
  while (!fragment.empty()) {
    const size_t length = NextUtf8(fragment).length;
    const std::string_view c = fragment.substr(0, length);
    fragment.remove_prefix(length);
    const bool matches = c == strip.content;
    if (matches && !mine.text_seen && mine.stripped < strip.start) {
      ++mine.stripped;
      continue;
    }
    mine.text_seen = true;
    if (matches && mine.held < strip.stop) {
      ++mine.held;
      continue;
    }
    if (!matches) {
      for (; mine.held > 0; --mine.held) kept += strip.content;
    }
    kept.append(c);
  }
  Run(index + 1, kept, state, out);
}

void Decoder::Finish(State* state, std::string* out) const {
  // In order: what one stage lets go still passes the later ones, before they end.
  for (size_t index = 0; index < stages_.size(); ++index) {
    if (std::holds_alternative<ByteFallback>(stages_[index])) FlushBytes(index, state, out);
    if (std::holds_alternative<ByteLevel>(stages_[index])) {
      std::string text;
      (*state)[index].utf8.Finish(&text);
      Run(index + 1, text, state, out);
    }
  }
  *state = NewState();
}

}  // namespace lorad
