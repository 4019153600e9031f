#include "engine/io/tokenizer.h"

#include <deque>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/io/json_check.h"
#include "engine/io/tokenizer/added_tokens.h"
#include "engine/io/tokenizer/bpe.h"
#include "engine/io/tokenizer/decoder.h"
#include "engine/io/tokenizer/json_fields.h"
#include "engine/io/tokenizer/normalizer.h"
#include "engine/io/tokenizer/post_processor.h"
#include "engine/io/tokenizer/pre_tokenizer.h"
#include "engine/io/tokenizer/vocabulary.h"
#include "engine/io/utf8.h"

namespace lorad {
namespace {

// Positions within one text are 32 bits wide.
constexpr size_t kMaxTextBytes = size_t{1} << 30;

constexpr char kTokenizerFile[] = "tokenizer.json";
constexpr char kConfigFile[] = "tokenizer_config.json";

}  // namespace

// In the order of encoding.
struct Tokenizer::Parts {
  Vocabulary vocabulary;
  AddedTokens added_tokens;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::optional<BpeModel> model;
  PostProcessor post_processor;
  Decoder decoder;
  std::optional<int32_t> bos_id, eos_id;

  absl::Status Load(const nlohmann::json& json, const std::string& where);
  absl::Status LoadConfig(const nlohmann::json& json, const std::string& where);
  // What decoding is given for the token.
  const std::string& DecodedToken(int32_t id) const {
    const std::string* added = added_tokens.DecodedAs(id);
    return added != nullptr ? *added : vocabulary.token(id);
  }
  absl::Status EncodeText(std::string_view text, bool starts_input, bool allow_special,
                          std::vector<int32_t>* ids) const;
  absl::Status EncodeSegment(std::string_view segment, bool starts_input, bool allow_special,
                             std::vector<int32_t>* ids) const;
};

absl::Status Tokenizer::Parts::Load(const nlohmann::json& json, const std::string& where) {
  RETURN_IF_ERROR(CheckFields(json,
                              {"version", "truncation", "padding", "added_tokens", "normalizer",
                               "pre_tokenizer", "post_processor", "decoder", "model"},
                              where));
  const auto place = [&](const char* part) { return absl::StrCat(where, ": ", part); };
  const nlohmann::json* model_json = FindField(json, "model");
  if (model_json == nullptr || !model_json->is_object())
    return absl::InvalidArgumentError(absl::StrCat(place("model"), " is missing"));
  const nlohmann::json* added_json = FindField(json, "added_tokens");
  ASSIGN_OR_RETURN(normalizer,
                   Normalizer::FromJson(FindField(json, "normalizer"), place("normalizer")));
  ASSIGN_OR_RETURN(pre_tokenizer, PreTokenizer::FromJson(FindField(json, "pre_tokenizer"),
                                                         place("pre_tokenizer")));
  ASSIGN_OR_RETURN(decoder, Decoder::FromJson(FindField(json, "decoder"), place("decoder")));
  RETURN_IF_ERROR(BpeModel::CheckType(*model_json, place("model")));
  RETURN_IF_ERROR(BpeModel::AddTokens(*model_json, place("model"), &vocabulary));
  RETURN_IF_ERROR(AddedTokens::AddTokens(added_json, place("added_tokens"), &vocabulary));
  RETURN_IF_ERROR(vocabulary.Seal(where));
  ASSIGN_OR_RETURN(added_tokens, AddedTokens::FromJson(added_json, normalizer,
                                                       place("added_tokens"), &vocabulary));
  ASSIGN_OR_RETURN(model, BpeModel::FromJson(*model_json, pre_tokenizer.byte_level(), &vocabulary,
                                             place("model")));
  ASSIGN_OR_RETURN(post_processor,
                   PostProcessor::FromJson(FindField(json, "post_processor"), vocabulary.size(),
                                           place("post_processor")));
  if (!post_processor.before().empty()) bos_id = post_processor.before().front();
  return absl::OkStatus();
}

// "bos_token": "<s>", or {"content": "<s>", ...} in older files, or null.
absl::Status Tokenizer::Parts::LoadConfig(const nlohmann::json& json, const std::string& where) {
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(where, ": not an object"));
  for (const auto& [key, id] : {std::pair("bos_token", &bos_id), std::pair("eos_token", &eos_id)}) {
    const nlohmann::json* field = FindField(json, key);
    if (field == nullptr) continue;
    std::string token;
    if (field->is_object()) {
      ASSIGN_OR_RETURN(token, StringField(*field, "content", absl::StrCat(where, ": ", key)));
    } else {
      ASSIGN_OR_RETURN(token, StringField(json, key, where));
    }
    *id = vocabulary.Find(token);
    if (!id->has_value())
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": ", key, " \"", ClippedText(token), "\" is not in the vocabulary"));
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Parts::EncodeSegment(std::string_view segment, bool starts_input,
                                             bool allow_special, std::vector<int32_t>* ids) const {
  std::deque<std::string> storage;
  std::vector<TextPiece> pieces = {{segment, starts_input}};
  RETURN_IF_ERROR(pre_tokenizer.Apply(&pieces, &storage));
  for (const TextPiece& piece : pieces)
    RETURN_IF_ERROR(model->Encode(piece.text, allow_special, ids));
  return absl::OkStatus();
}

// Text in which no added token was found as it came.
absl::Status Tokenizer::Parts::EncodeText(std::string_view text, bool starts_input,
                                          bool allow_special, std::vector<int32_t>* ids) const {
  std::string normal;
  if (!normalizer.empty()) {
    normal = std::string(text);
    RETURN_IF_ERROR(normalizer.Apply(&normal));
    text = normal;
  }
  for (const AddedTokenPart& part : added_tokens.Split(text, /*normalized=*/true, allow_special)) {
    if (part.id >= 0) {
      ids->push_back(part.id);
      continue;
    }
    RETURN_IF_ERROR(EncodeSegment(text.substr(part.begin, part.end - part.begin),
                                  starts_input && part.begin == 0, allow_special, ids));
  }
  return absl::OkStatus();
}

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const std::string& directory) {
  const std::string path = JoinPath(directory, kTokenizerFile);
  ASSIGN_OR_RETURN(const std::string json, ReadFile(path));
  const std::string config_path = JoinPath(directory, kConfigFile);
  std::string config;
  if (PathExists(config_path)) {
    ASSIGN_OR_RETURN(config, ReadFile(config_path));
  }
  return FromJson(json, config, directory);
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::FromJson(
    std::string_view tokenizer_json, std::string_view config_json, std::string_view where) {
  auto parts = std::make_unique<Parts>();
  const std::string place = JoinPath(where, kTokenizerFile);
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(tokenizer_json, place));
  RETURN_IF_ERROR(parts->Load(json, place));
  if (!config_json.empty()) {
    const std::string config_place = JoinPath(where, kConfigFile);
    ASSIGN_OR_RETURN(const nlohmann::json config, ParseJson(config_json, config_place));
    RETURN_IF_ERROR(parts->LoadConfig(config, config_place));
  }
  return absl::WrapUnique<const Tokenizer>(new Tokenizer(std::move(parts)));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes)
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", text.size(), " bytes, the limit is ", kMaxTextBytes));
  if (const size_t bad = FirstInvalidUtf8(text); bad != text.size())
    return absl::InvalidArgumentError(
        absl::StrCat("the text is not valid UTF-8 at byte ", bad, " of ", text.size()));
  std::vector<int32_t> ids;
  if (options.add_special_tokens) ids = parts_->post_processor.before();
  const bool allow_special = options.allow_special;
  for (const AddedTokenPart& part :
       parts_->added_tokens.Split(text, /*normalized=*/false, allow_special)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    RETURN_IF_ERROR(parts_->EncodeText(text.substr(part.begin, part.end - part.begin),
                                       part.begin == 0, allow_special, &ids));
  }
  if (options.add_special_tokens) {
    const std::vector<int32_t>& after = parts_->post_processor.after();
    ids.insert(ids.end(), after.begin(), after.end());
  }
  return ids;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, const DecodeOptions& options) const {
  IncrementalDecoder decoder(this, options);
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(id);
  return text + decoder.Finish();
}

int32_t Tokenizer::vocab_size() const { return parts_->vocabulary.size(); }
std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  return parts_->vocabulary.Find(token);
}
const std::string& Tokenizer::IdToToken(int32_t id) const {
  LORAD_CHECK(HasToken(id));
  return parts_->vocabulary.token(id);
}
bool Tokenizer::IsSpecial(int32_t id) const {
  return HasToken(id) && parts_->vocabulary.IsSpecial(id);
}
std::string Tokenizer::TokenBytes(int32_t id) const {
  if (!HasToken(id) || IsSpecial(id)) return "";
  return parts_->decoder.BytesWithin(parts_->DecodedToken(id));
}
bool Tokenizer::TrimsEnd() const { return parts_->decoder.TrimsEnd(); }
std::optional<int32_t> Tokenizer::bos_id() const { return parts_->bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return parts_->eos_id; }

struct IncrementalDecoder::State {
  Decoder::State stages;
};

IncrementalDecoder::IncrementalDecoder(const Tokenizer* tokenizer, const DecodeOptions& options)
    : tokenizer_(tokenizer),
      options_(options),
      state_(std::make_unique<State>(
          State{tokenizer->parts_->decoder.NewState(options.continues_text)})) {}
IncrementalDecoder::~IncrementalDecoder() = default;
IncrementalDecoder::IncrementalDecoder(IncrementalDecoder&&) noexcept = default;
IncrementalDecoder& IncrementalDecoder::operator=(IncrementalDecoder&&) noexcept = default;

std::string IncrementalDecoder::Push(int32_t id) {
  std::string text;
  if (!tokenizer_->HasToken(id)) return text;
  if (options_.skip_special_tokens && tokenizer_->IsSpecial(id)) return text;
  const Tokenizer::Parts& parts = *tokenizer_->parts_;
  parts.decoder.Push(parts.DecodedToken(id), &state_->stages, &text);
  return text;
}

std::string IncrementalDecoder::Finish() {
  std::string text;
  tokenizer_->parts_->decoder.Finish(&state_->stages, &text);
  return text;
}

}  // namespace lorad
