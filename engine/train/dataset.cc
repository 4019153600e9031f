#include "engine/train/dataset.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/mmap_file.h"
#include "engine/io/sha256.h"
#include "engine/ops/cross_entropy.h"
#include "engine/train/sample_line.h"

namespace lorad {
namespace {

using Ids = std::vector<int32_t>;

absl::Status Error(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

// Plain text to ids: what a user wrote never becomes a control token.
absl::StatusOr<Ids> EncodePlain(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.Encode(text, {.add_special_tokens = false, .allow_special = false});
}

// What goes around the text of every sample.
struct Frame {
  Ids prefix;  // BOS, or nothing
  int32_t eos = -1;
};

// The post-processor's prefix, found by encoding a probe with and without it.
absl::StatusOr<Ids> SpecialPrefix(const Tokenizer& tokenizer) {
  constexpr std::string_view kProbe = "a";
  ASSIGN_OR_RETURN(const Ids plain, EncodePlain(tokenizer, kProbe));
  ASSIGN_OR_RETURN(const Ids full, tokenizer.Encode(kProbe));
  const auto found = std::search(full.begin(), full.end(), plain.begin(), plain.end());
  return Ids(full.begin(), found);
}

absl::StatusOr<Frame> MakeFrame(const Tokenizer& tokenizer, const ModelConfig& config) {
  Frame frame;
  ASSIGN_OR_RETURN(frame.prefix, SpecialPrefix(tokenizer));
  const Ids& stops = config.eos_token_ids;
  const std::optional<int32_t> eos = tokenizer.eos_id();
  if (eos && (stops.empty() || std::find(stops.begin(), stops.end(), *eos) != stops.end()))
    frame.eos = *eos;
  else if (!stops.empty())
    frame.eos = stops.front();
  else
    return absl::InvalidArgumentError(
        "neither tokenizer_config.json nor generation_config.json nor config.json of the model "
        "names an end-of-sequence token, so an adapter could not learn to stop: add eos_token_id "
        "to the model's config.json, or give pre-tokenised input_ids and labels");
  return frame;
}

// Turns lines into samples of one dataset.
class DatasetBuilder {
 public:
  DatasetBuilder(int32_t max_seq_length, const ModelConfig& config, const Tokenizer* tokenizer)
      : max_tokens_(max_seq_length), config_(config), tokenizer_(tokenizer) {}

  absl::Status Add(const SampleLine& line, const std::string& where);
  absl::StatusOr<TokenDataset> Finish(const std::string& path) &&;

 private:
  absl::Status CheckKind(SampleKind kind, const std::string& where);
  absl::StatusOr<Ids> Encode(const char* field, const std::string& text,
                             const std::string& where) const;
  absl::Status Tokenize(const SampleLine& line, const std::string& where);
  absl::Status Append(absl::Span<const int32_t> ids, absl::Span<const int32_t> labels,
                      const std::string& where);

  const int64_t max_tokens_;
  const ModelConfig& config_;
  const Tokenizer* tokenizer_;
  std::optional<SampleKind> kind_;
  std::optional<Frame> frame_;
  TokenDataset dataset_;
};

absl::Status DatasetBuilder::CheckKind(SampleKind kind, const std::string& where) {
  if (!kind_) {
    kind_ = kind;
    dataset_.report.kind = Name(kind);
    if (kind == SampleKind::kTokens) return absl::OkStatus();
    if (tokenizer_ == nullptr)
      return Error(where, absl::StrCat("the sample is of kind ", Name(kind),
                                       ", but the model directory has no tokenizer.json; add it, "
                                       "or give pre-tokenised input_ids and labels"));
    ASSIGN_OR_RETURN(frame_, MakeFrame(*tokenizer_, config_));
  }
  if (kind != *kind_)
    return Error(where,
                 absl::StrCat("the sample is of kind ", Name(kind), ", those before it of kind ",
                              Name(*kind_), "; a file holds one kind"));
  return absl::OkStatus();
}

absl::Status DatasetBuilder::Add(const SampleLine& line, const std::string& where) {
  RETURN_IF_ERROR(CheckKind(line.kind, where));
  if (line.kind == SampleKind::kTokens) return Append(line.input_ids, line.labels, where);
  return Tokenize(line, where);
}

absl::StatusOr<Ids> DatasetBuilder::Encode(const char* field, const std::string& text,
                                           const std::string& where) const {
  absl::StatusOr<Ids> ids = EncodePlain(*tokenizer_, text);
  if (!ids.ok()) return Error(where, absl::StrCat(field, ": ", ids.status().message()));
  for (const int32_t id : *ids)
    if (id >= config_.vocab_size)
      return Error(where, absl::StrCat(field, ": the tokenizer gives id ", id,
                                       ", the model's vocabulary ends at ", config_.vocab_size,
                                       "; tokenizer.json belongs to another model"));
  return ids;
}

absl::Status DatasetBuilder::Tokenize(const SampleLine& line, const std::string& where) {
  const bool has_prompt = line.kind == SampleKind::kPromptCompletion;
  Ids ids = frame_->prefix;
  if (has_prompt) {
    ASSIGN_OR_RETURN(const Ids prompt, Encode("prompt", line.prompt, where));
    ids.insert(ids.end(), prompt.begin(), prompt.end());
  }
  Ids labels(ids.size(), kIgnoreLabel);
  const char* field = has_prompt ? "completion" : "text";
  ASSIGN_OR_RETURN(Ids target, Encode(field, line.text, where));
  if (target.empty())
    return Error(where, absl::StrCat("field \"", field, "\" has no token to train on"));
  target.push_back(frame_->eos);
  ids.insert(ids.end(), target.begin(), target.end());
  labels.insert(labels.end(), target.begin(), target.end());
  return Append(ids, labels, where);
}

absl::Status DatasetBuilder::Append(absl::Span<const int32_t> ids, absl::Span<const int32_t> labels,
                                    const std::string& where) {
  DatasetReport& report = dataset_.report;
  const int64_t tokens = static_cast<int64_t>(ids.size());
  const int64_t kept = std::min(tokens, max_tokens_);
  int64_t targets = 0;
  for (int64_t t = 1; t < kept; ++t) targets += labels[t] != kIgnoreLabel;
  if (targets == 0)
    return Error(where, kept < tokens
                            ? absl::StrCat("no token in the loss is left of the ", tokens,
                                           " tokens of the sample at max_seq_length ", max_tokens_,
                                           "; raise it or shorten the prompt")
                            : absl::StrCat("no token in the loss: each of the ", tokens,
                                           " labels is -100 or has no token before it"));
  dataset_.ids.insert(dataset_.ids.end(), ids.begin(), ids.begin() + kept);
  dataset_.labels.insert(dataset_.labels.end(), labels.begin(), labels.begin() + kept);
  dataset_.begins.push_back(static_cast<int64_t>(dataset_.ids.size()));
  report.samples += 1;
  report.tokens += kept;
  report.target_tokens += targets;
  report.truncated_samples += kept < tokens;
  report.longest_sample_tokens = std::max(report.longest_sample_tokens, tokens);
  return absl::OkStatus();
}

absl::StatusOr<TokenDataset> DatasetBuilder::Finish(const std::string& path) && {
  if (dataset_.report.samples == 0) return Error(path, "the file holds no sample");
  return std::move(dataset_);
}

absl::Status CheckEncoding(std::string_view bytes, const std::string& path) {
  using namespace std::string_view_literals;
  if (bytes.substr(0, 3) == "\xef\xbb\xbf"sv)
    return Error(path, "line 1 begins with a byte order mark; save the file as UTF-8 without one");
  if (bytes.substr(0, 2) == "\xff\xfe"sv || bytes.substr(0, 2) == "\xfe\xff"sv)
    return Error(path, "the file is UTF-16; save it as UTF-8");
  return absl::OkStatus();
}

// JSON's white space, less the line end.
bool IsBlank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

}  // namespace

absl::StatusOr<TokenDataset> ReadDataset(const std::string& path, int32_t max_seq_length,
                                         const ModelConfig& config, const Tokenizer* tokenizer) {
  if (max_seq_length < 2 || max_seq_length > config.max_position_embeddings)
    return absl::InvalidArgumentError(
        absl::StrCat("max_seq_length is ", max_seq_length, "; it must be in [2, ",
                     config.max_position_embeddings, "], the context of the model"));
  ASSIGN_OR_RETURN(const MmapFile file, MmapFile::Open(path));
  const std::string_view bytes = file.bytes();
  RETURN_IF_ERROR(CheckEncoding(bytes, path));
  DatasetBuilder builder(max_seq_length, config, tokenizer);
  int64_t line_number = 0;
  for (size_t begin = 0; begin < bytes.size();) {
    const size_t end = std::min(bytes.find('\n', begin), bytes.size());
    const std::string_view line = bytes.substr(begin, end - begin);
    begin = end + 1;
    const std::string where = absl::StrCat(path, " line ", ++line_number);
    if (static_cast<int64_t>(line.size()) > kMaxLineBytes)
      return Error(where, absl::StrCat("the line has ", line.size(), " bytes; at most ",
                                       kMaxLineBytes, " are read"));
    if (IsBlank(line)) continue;
    ASSIGN_OR_RETURN(const SampleLine sample, ParseSampleLine(line, config.vocab_size, where));
    RETURN_IF_ERROR(builder.Add(sample, where));
  }
  ASSIGN_OR_RETURN(TokenDataset dataset, std::move(builder).Finish(path));
  dataset.sha256 = Sha256Hex(bytes);
  RETURN_IF_ERROR(file.CheckUnchanged());
  return dataset;
}

}  // namespace lorad
