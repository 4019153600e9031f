#include "engine/io/tokenizer/bpe.h"

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/core/status_macros.h"
#include "engine/io/json_check.h"
#include "engine/io/text.h"
#include "engine/io/tokenizer/json_fields.h"
#include "engine/io/tokenizer/unicode.h"
#include "engine/io/utf8.h"

namespace lorad {
namespace {

// Up to this many symbols, looking at all pairs again after each merge beats a heap.
constexpr size_t kMaxShortSymbols = 48;

uint64_t PairKey(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

std::string ByteToken(int byte) { return absl::StrFormat("<0x%02X>", byte); }

// One possible merge in the heap: of the symbol at `position` with its right neighbour.
struct Candidate {
  int32_t rank;
  int32_t position;
  int32_t id;
  bool operator>(const Candidate& other) const {
    return std::tie(rank, position) > std::tie(other.rank, other.position);
  }
};

// A symbol in the list of those that are left; id -1 once it is merged into the one before.
struct Node {
  int32_t id;
  int32_t previous;
  int32_t next;
};

}  // namespace

absl::Status BpeModel::CheckType(const nlohmann::json& json, const std::string& where) {
  if (FindField(json, "type") == nullptr) return absl::OkStatus();  // old files have none
  ASSIGN_OR_RETURN(const std::string type, StringField(json, "type", where));
  if (type == "BPE") return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(where, ": type \"", ClippedText(type), "\" is not supported; supported is BPE"));
}

absl::Status BpeModel::AddTokens(const nlohmann::json& json, const std::string& where,
                                 Vocabulary* vocabulary) {
  const nlohmann::json* vocab = FindField(json, "vocab");
  if (vocab == nullptr || !vocab->is_object())
    return absl::InvalidArgumentError(absl::StrCat(where, ": needs a \"vocab\" object"));
  for (const auto& item : vocab->items()) {
    absl::StatusOr<int32_t> id = IntValue(item.value(), where);
    if (!id.ok())
      return absl::InvalidArgumentError(absl::StrCat(where, ": token \"", ClippedText(item.key()),
                                                     "\": ", id.status().message()));
    RETURN_IF_ERROR(vocabulary->Add(item.key(), *id, where));
  }
  return absl::OkStatus();
}

absl::StatusOr<BpeModel> BpeModel::FromJson(const nlohmann::json& json, bool byte_level,
                                            const Vocabulary* vocabulary,
                                            const std::string& where) {
  BpeModel model(vocabulary);
  model.byte_level_ = byte_level;
  RETURN_IF_ERROR(model.LoadOptions(json, where));
  RETURN_IF_ERROR(model.LoadBytes(where));
  RETURN_IF_ERROR(model.LoadMerges(json, where));
  if (byte_level && model.ignore_merges_) {
    for (int32_t id = 0; id < vocabulary->size(); ++id) {
      std::string bytes;
      if (AppendByteLevelBytes(vocabulary->token(id), &bytes)) model.by_bytes_.emplace(bytes, id);
    }
  }
  return model;
}

absl::Status BpeModel::LoadOptions(const nlohmann::json& json, const std::string& where) {
  RETURN_IF_ERROR(CheckFields(
      json,
      {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
       "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"},
      where));
  const nlohmann::json* dropout = FindField(json, "dropout");
  if (dropout != nullptr && (!dropout->is_number() || dropout->get<double>() != 0.0))
    return absl::UnimplementedError(absl::StrCat(where, ": dropout ", ClippedText(dropout->dump()),
                                                 " is not supported: encoding must not be random"));
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (FindField(json, affix) == nullptr) continue;
    ASSIGN_OR_RETURN(const std::string text, StringField(json, affix, where));
    if (!text.empty())
      return absl::UnimplementedError(
          absl::StrCat(where, ": ", affix, " \"", ClippedText(text), "\" is not supported"));
  }
  ASSIGN_OR_RETURN(fuse_unknown_, BoolField(json, "fuse_unk", false, where));
  ASSIGN_OR_RETURN(byte_fallback_, BoolField(json, "byte_fallback", false, where));
  ASSIGN_OR_RETURN(ignore_merges_, BoolField(json, "ignore_merges", false, where));
  if (FindField(json, "unk_token") != nullptr) {
    ASSIGN_OR_RETURN(const std::string unknown, StringField(json, "unk_token", where));
    unknown_id_ = vocabulary_->Find(unknown);
    if (!unknown_id_.has_value())
      return absl::InvalidArgumentError(absl::StrCat(where, ": unk_token \"", ClippedText(unknown),
                                                     "\" is not in the vocabulary"));
  }
  return absl::OkStatus();
}

absl::Status BpeModel::LoadBytes(const std::string& where) {
  byte_ids_.fill(-1);
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    if (byte_level_) {
      AppendUtf8(ByteLevelChar(static_cast<uint8_t>(byte)), &token);
    } else if (byte_fallback_) {
      token = ByteToken(byte);
    } else {
      continue;
    }
    byte_ids_[byte] = vocabulary_->Find(token).value_or(-1);
    if (byte_fallback_ && byte_ids_[byte] < 0)
      return absl::InvalidArgumentError(absl::StrCat(where, ": byte_fallback needs the token \"",
                                                     token, "\", which the vocabulary lacks"));
  }
  return absl::OkStatus();
}

absl::Status BpeModel::LoadMerges(const nlohmann::json& json, const std::string& where) {
  ASSIGN_OR_RETURN(const nlohmann::json* merges, ArrayField(json, "merges", where));
  merges_.reserve(merges->size());
  int32_t rank = 0;
  for (const nlohmann::json& item : *merges) RETURN_IF_ERROR(AddMerge(item, rank++, where));
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerge(const nlohmann::json& item, int32_t rank,
                                const std::string& where) {
  // ["a", "b"], or "a b" in older files.
  const std::string place = absl::StrCat(where, ": merge ", rank);
  std::string left, right;
  if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
    left = item[0].get<std::string>();
    right = item[1].get<std::string>();
  } else if (item.is_string()) {
    const std::string& text = item.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
      return absl::InvalidArgumentError(
          absl::StrCat(place, " \"", ClippedText(text), "\" is not two tokens"));
    left = text.substr(0, space);
    right = text.substr(space + 1);
  } else {
    return absl::InvalidArgumentError(absl::StrCat(place, " is not two tokens"));
  }
  int32_t ids[3];
  const std::string* tokens[3] = {&left, &right, nullptr};
  const std::string merged = left + right;
  tokens[2] = &merged;
  for (int i = 0; i < 3; ++i) {
    const std::optional<int32_t> id = vocabulary_->Find(*tokens[i]);
    if (!id.has_value())
      return absl::InvalidArgumentError(absl::StrCat(place, ": token \"", ClippedText(*tokens[i]),
                                                     "\" is not in the vocabulary"));
    ids[i] = *id;
  }
  // A pair given twice: the later rank counts, as in the tokenizers package.
  merges_[PairKey(ids[0], ids[1])] = {rank, ids[2]};
  return absl::OkStatus();
}

absl::Status BpeModel::Encode(std::string_view piece, bool allow_special,
                              std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    const std::optional<int32_t> whole = WholePiece(piece);
    if (whole.has_value() && (allow_special || !vocabulary_->IsSpecial(*whole))) {
      ids->push_back(*whole);
      return absl::OkStatus();
    }
  }
  std::vector<int32_t> symbols;
  RETURN_IF_ERROR(FirstSymbols(piece, &symbols));
  if (symbols.size() <= kMaxShortSymbols) {
    MergeShort(&symbols);
  } else {
    MergeLong(&symbols);
  }
  ids->insert(ids->end(), symbols.begin(), symbols.end());
  return absl::OkStatus();
}

std::optional<int32_t> BpeModel::WholePiece(std::string_view piece) const {
  if (!byte_level_) return vocabulary_->Find(piece);
  const auto found = by_bytes_.find(AbslView(piece));
  if (found == by_bytes_.end()) return std::nullopt;
  return found->second;
}

absl::Status BpeModel::FirstSymbols(std::string_view piece, std::vector<int32_t>* symbols) const {
  symbols->reserve(piece.size());
  bool after_unknown = false;
  for (size_t at = 0; at < piece.size();) {
    const size_t length = byte_level_ ? 1 : NextUtf8(piece.substr(at)).length;
    const std::string_view unit = piece.substr(at, length);
    at += length;
    const int32_t id = byte_level_ ? byte_ids_[static_cast<uint8_t>(unit[0])]
                                   : vocabulary_->Find(unit).value_or(-1);
    if (id >= 0) {
      symbols->push_back(id);
      after_unknown = false;
    } else if (byte_fallback_) {
      for (const char byte : unit) symbols->push_back(byte_ids_[static_cast<uint8_t>(byte)]);
    } else if (unknown_id_.has_value()) {
      if (!(after_unknown && fuse_unknown_)) symbols->push_back(*unknown_id_);
      after_unknown = true;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "the vocabulary has no token for ",
          byte_level_ ? absl::StrFormat("the byte 0x%02X", static_cast<uint8_t>(unit[0]))
                      : absl::StrCat("the character \"", AbslView(unit), "\""),
          " and names no unknown token"));
    }
  }
  return absl::OkStatus();
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// Lowest rank first, leftmost among equals, as MergeLong does.
void BpeModel::MergeShort(std::vector<int32_t>* symbols) const {
  if (symbols->size() < 2) return;
  const Merge* pairs[kMaxShortSymbols];  // pairs[i]: the merge of symbols i and i + 1, if any
  int32_t* ids = symbols->data();
  size_t count = symbols->size();
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = FindMerge(ids[i], ids[i + 1]);
  while (count > 1) {
    size_t best = count;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (pairs[i] != nullptr && (best == count || pairs[i]->rank < pairs[best]->rank)) best = i;
    }
    if (best == count) break;
    ids[best] = pairs[best]->id;
    std::copy(ids + best + 2, ids + count, ids + best + 1);
    std::copy(pairs + best + 1, pairs + count - 1, pairs + best);
    --count;
    if (best > 0) pairs[best - 1] = FindMerge(ids[best - 1], ids[best]);
    if (best + 1 < count) pairs[best] = FindMerge(ids[best], ids[best + 1]);
  }
  symbols->resize(count);
}

void BpeModel::MergeLong(std::vector<int32_t>* symbols) const {
  const int32_t count = static_cast<int32_t>(symbols->size());
  std::vector<Node> nodes(symbols->size());
  for (int32_t i = 0; i < count; ++i) nodes[i] = {(*symbols)[i], i - 1, i + 1 < count ? i + 1 : -1};
  std::vector<Candidate> heap;
  heap.reserve(symbols->size());
  const auto offer = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return false;
    const Merge* merge = FindMerge(nodes[left].id, nodes[right].id);
    if (merge != nullptr) heap.push_back({merge->rank, left, merge->id});
    return merge != nullptr;
  };
  for (int32_t i = 0; i + 1 < count; ++i) offer(i, i + 1);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t left, int32_t right) {
    if (offer(left, right)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const Candidate top = heap.back();
    heap.pop_back();
    Node& left = nodes[top.position];
    // Either symbol may have been merged away or into another since this was offered.
    if (left.id < 0 || left.next < 0) continue;
    Node& right = nodes[left.next];
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->id != top.id) continue;
    left.id = top.id;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) nodes[left.next].previous = top.position;
    push(left.previous, top.position);
    push(top.position, left.next);
  }
  symbols->clear();
  for (int32_t i = 0; i >= 0 && i < count; i = nodes[i].next) symbols->push_back(nodes[i].id);
}

}  // namespace lorad
