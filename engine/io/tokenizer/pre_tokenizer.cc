#include "engine/io/tokenizer/pre_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/json_check.h"
#include "engine/io/tokenizer/json_fields.h"
#include "engine/io/tokenizer/unicode.h"
#include "engine/io/utf8.h"

namespace lorad {
namespace {

// The split of GPT-2 (Radford et al. 2019), which ByteLevel applies unless told not to.
constexpr char kGpt2Split[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Segment {
  TextRange range;
  bool is_match;
};

// Matches and what lies between them; together they cover the text.
std::vector<Segment> Segments(size_t size, const std::vector<TextRange>& matches, bool invert) {
  std::vector<Segment> segments;
  segments.reserve(2 * matches.size() + 1);
  size_t done = 0;
  for (const TextRange& match : matches) {
    if (match.begin > done) segments.push_back({{done, match.begin}, invert});
    segments.push_back({match, !invert});
    done = match.end;
  }
  if (done < size) segments.push_back({{done, size}, invert});
  return segments;
}

absl::StatusOr<SplitBehavior> ParseBehavior(const std::string& name, const std::string& where) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return absl::UnimplementedError(
      absl::StrCat(where, ": behavior \"", ClippedText(name), "\" is not supported"));
}

std::vector<TextRange> NumericRanges(std::string_view text) {
  std::vector<TextRange> ranges;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    if (IsNumeric(step.code_point)) ranges.push_back({at, at + step.length});
    at += step.length;
  }
  return ranges;
}

std::vector<TextRange> LiteralRanges(std::string_view text, std::string_view literal) {
  std::vector<TextRange> ranges;
  for (size_t at = text.find(literal); at != std::string_view::npos;
       at = text.find(literal, at + literal.size()))
    ranges.push_back({at, at + literal.size()});
  return ranges;
}

}  // namespace

void SplitPiece(TextPiece piece, const std::vector<TextRange>& matches, SplitBehavior behavior,
                bool invert, std::vector<TextPiece>* out) {
  const auto emit = [&](size_t begin, size_t end) {
    if (begin < end)
      out->push_back({piece.text.substr(begin, end - begin), piece.starts_input && begin == 0});
  };
  const std::vector<Segment> segments = Segments(piece.text.size(), matches, invert);
  for (size_t i = 0; i < segments.size();) {
    const auto is_match = [&](size_t j) { return j < segments.size() && segments[j].is_match; };
    size_t last = i;  // the part reaches from segment i to segment `last`
    switch (behavior) {
      case SplitBehavior::kRemoved:
      case SplitBehavior::kIsolated:
        break;
      case SplitBehavior::kMergedWithPrevious:
        // The first match of a run joins the text before it.
        if (!is_match(i) && is_match(i + 1)) last = i + 1;
        break;
      case SplitBehavior::kMergedWithNext:
        // The last match of a run joins the text after it.
        if (is_match(i) && i + 1 < segments.size() && !is_match(i + 1)) last = i + 1;
        break;
      case SplitBehavior::kContiguous:
        while (last + 1 < segments.size() && is_match(last + 1) == is_match(i)) ++last;
        break;
    }
    if (behavior != SplitBehavior::kRemoved || !is_match(i))
      emit(segments[i].range.begin, segments[last].range.end);
    i = last + 1;
  }
}

absl::StatusOr<PreTokenizer> PreTokenizer::FromJson(const nlohmann::json* json,
                                                    const std::string& where) {
  PreTokenizer pre_tokenizer;
  if (json != nullptr) RETURN_IF_ERROR(pre_tokenizer.Add(*json, where));
  return pre_tokenizer;
}

absl::Status PreTokenizer::Add(const nlohmann::json& json, const std::string& where) {
  ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", where));
  const std::string place = absl::StrCat(where, ": ", ClippedText(type));
  if (type == "Sequence") {
    RETURN_IF_ERROR(CheckFields(json, {"type", "pretokenizers"}, place));
    ASSIGN_OR_RETURN(const nlohmann::json* steps, ArrayField(json, "pretokenizers", place));
    for (const nlohmann::json& step : *steps) RETURN_IF_ERROR(Add(step, place));
    return absl::OkStatus();
  }
  if (byte_level_)
    return absl::UnimplementedError(
        absl::StrCat(place, " after ByteLevel is not supported: ByteLevel must be the last"));
  if (type == "Split") return AddSplit(json, place);
  if (type == "ByteLevel") return AddByteLevel(json, place);
  if (type == "Metaspace") return AddMetaspace(json, place);
  if (type == "Digits") {
    RETURN_IF_ERROR(CheckFields(json, {"type", "individual_digits"}, place));
    ASSIGN_OR_RETURN(const bool individual, BoolField(json, "individual_digits", false, place));
    steps_.emplace_back(DigitsStep{individual});
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat(place, " is not supported"));
}

absl::Status PreTokenizer::AddSplit(const nlohmann::json& json, const std::string& where) {
  RETURN_IF_ERROR(CheckFields(json, {"type", "pattern", "behavior", "invert"}, where));
  const nlohmann::json* pattern_json = FindField(json, "pattern");
  if (pattern_json == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(where, ": has no pattern"));
  ASSIGN_OR_RETURN(Pattern pattern, Pattern::FromJson(*pattern_json, where));
  ASSIGN_OR_RETURN(const std::string behavior_name, StringField(json, "behavior", where));
  ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(behavior_name, where));
  ASSIGN_OR_RETURN(const bool invert, BoolField(json, "invert", false, where));
  steps_.emplace_back(SplitStep{std::move(pattern), behavior, invert});
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddByteLevel(const nlohmann::json& json, const std::string& where) {
  // trim_offsets concerns character offsets, which lorad does not give.
  RETURN_IF_ERROR(
      CheckFields(json, {"type", "add_prefix_space", "trim_offsets", "use_regex"}, where));
  ASSIGN_OR_RETURN(const bool prefix_space, BoolField(json, "add_prefix_space", true, where));
  ASSIGN_OR_RETURN(const bool use_regex, BoolField(json, "use_regex", true, where));
  if (prefix_space) steps_.emplace_back(PrefixSpaceStep{});
  if (use_regex) {
    ASSIGN_OR_RETURN(Pattern pattern, Pattern::Regex(kGpt2Split, where));
    steps_.emplace_back(SplitStep{std::move(pattern), SplitBehavior::kIsolated, false});
  }
  byte_level_ = true;
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddMetaspace(const nlohmann::json& json, const std::string& where) {
  using Prepend = MetaspaceStep::Prepend;
  RETURN_IF_ERROR(CheckFields(
      json, {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"},
      where));
  ASSIGN_OR_RETURN(const char32_t replacement, CharField(json, "replacement", where));
  // add_prefix_space is the older spelling of prepend_scheme.
  ASSIGN_OR_RETURN(const bool prefix_space, BoolField(json, "add_prefix_space", true, where));
  MetaspaceStep step{"", prefix_space ? Prepend::kAlways : Prepend::kNever, true};
  if (FindField(json, "prepend_scheme") != nullptr) {
    ASSIGN_OR_RETURN(const std::string scheme, StringField(json, "prepend_scheme", where));
    if (scheme != "always" && scheme != "first" && scheme != "never")
      return absl::UnimplementedError(
          absl::StrCat(where, ": prepend_scheme \"", ClippedText(scheme), "\" is not supported"));
    if (!prefix_space && scheme != "never")
      return absl::InvalidArgumentError(absl::StrCat(
          where, ": add_prefix_space false contradicts prepend_scheme \"", scheme, "\""));
    step.prepend = scheme == "always"  ? Prepend::kAlways
                   : scheme == "first" ? Prepend::kFirst
                                       : Prepend::kNever;
  }
  AppendUtf8(replacement, &step.replacement);
  ASSIGN_OR_RETURN(step.split, BoolField(json, "split", true, where));
  steps_.emplace_back(std::move(step));
  return absl::OkStatus();
}

absl::Status PreTokenizer::ApplyStep(const Step& step, TextPiece piece,
                                     std::deque<std::string>* storage,
                                     std::vector<TextPiece>* out) {
  if (const auto* split = std::get_if<SplitStep>(&step)) {
    std::vector<TextRange> matches;
    RETURN_IF_ERROR(split->pattern.FindAll(piece.text, &matches));
    SplitPiece(piece, matches, split->behavior, split->invert, out);
  } else if (const auto* digits = std::get_if<DigitsStep>(&step)) {
    SplitPiece(piece, NumericRanges(piece.text),
               digits->individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false,
               out);
  } else if (std::holds_alternative<PrefixSpaceStep>(step)) {
    if (piece.text.front() != ' ') {
      storage->push_back(" ");
      piece.text = storage->back().append(piece.text);
    }
    out->push_back(piece);
  } else {
    const auto& metaspace = std::get<MetaspaceStep>(step);
    ASSIGN_OR_RETURN(std::string text,
                     ReplaceAll(piece.text, Pattern::Literal(" "), metaspace.replacement));
    const bool prepend =
        metaspace.prepend == MetaspaceStep::Prepend::kAlways ||
        (metaspace.prepend == MetaspaceStep::Prepend::kFirst && piece.starts_input);
    if (prepend && text.rfind(metaspace.replacement, 0) != 0) text.insert(0, metaspace.replacement);
    storage->push_back(std::move(text));
    piece.text = storage->back();
    if (metaspace.split) {
      SplitPiece(piece, LiteralRanges(piece.text, metaspace.replacement),
                 SplitBehavior::kMergedWithNext, false, out);
    } else {
      out->push_back(piece);
    }
  }
  return absl::OkStatus();
}

absl::Status PreTokenizer::Apply(std::vector<TextPiece>* pieces,
                                 std::deque<std::string>* storage) const {
  std::vector<TextPiece> next;
  for (const Step& step : steps_) {
    next.clear();
    for (const TextPiece& piece : *pieces) RETURN_IF_ERROR(ApplyStep(step, piece, storage, &next));
    pieces->swap(next);
  }
  return absl::OkStatus();
}

}  // namespace lorad
