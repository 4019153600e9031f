// Byte-pair encoding: Sennrich et al., "Neural Machine Translation of Rare Words with Subword
// Units", 2016. Internal to engine/io.
#ifndef LORAD_ENGINE_IO_TOKENIZER_BPE_H_
#define LORAD_ENGINE_IO_TOKENIZER_BPE_H_

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/io/tokenizer/vocabulary.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

// Immutable once loaded. Thread-safe.
class BpeModel {
 public:
  // kUnimplemented for another model than BPE, before its vocabulary is read.
  static absl::Status CheckType(const nlohmann::json& json, const std::string& where);
  // Adds the model's tokens to `vocabulary`, before it is sealed.
  static absl::Status AddTokens(const nlohmann::json& json, const std::string& where,
                                Vocabulary* vocabulary);

  // `vocabulary` is sealed and outlives the model. kInvalidArgument names a merge with an unknown
  // token or a missing byte token; kUnimplemented an option.
  static absl::StatusOr<BpeModel> FromJson(const nlohmann::json& json, bool byte_level,
                                           const Vocabulary* vocabulary, const std::string& where);

  // Appends the ids of one piece. `allow_special` false: a piece that spells a special token is
  // still merged from its parts. Time n log n. kInvalidArgument for a character that the
  // vocabulary lacks when the file names no unknown token.
  absl::Status Encode(std::string_view piece, bool allow_special, std::vector<int32_t>* ids) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t id;
  };

  explicit BpeModel(const Vocabulary* vocabulary) : vocabulary_(vocabulary) {}

  absl::Status LoadOptions(const nlohmann::json& json, const std::string& where);
  absl::Status LoadBytes(const std::string& where);
  absl::Status LoadMerges(const nlohmann::json& json, const std::string& where);
  absl::Status AddMerge(const nlohmann::json& item, int32_t rank, const std::string& where);

  std::optional<int32_t> WholePiece(std::string_view piece) const;
  absl::Status FirstSymbols(std::string_view piece, std::vector<int32_t>* symbols) const;
  const Merge* FindMerge(int32_t left, int32_t right) const;
  void MergeShort(std::vector<int32_t>* symbols) const;
  void MergeLong(std::vector<int32_t>* symbols) const;

  const Vocabulary* vocabulary_;
  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  bool fuse_unknown_ = false;
  std::optional<int32_t> unknown_id_;
  std::array<int32_t, 256> byte_ids_{};  // the token of each byte; -1 for none
  absl::flat_hash_map<uint64_t, Merge> merges_;
  // Byte-level with ignore_merges: tokens by the bytes they stand for.
  absl::flat_hash_map<std::string, int32_t> by_bytes_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_BPE_H_
