// Tokens and their ids: the model's vocabulary and the added tokens together. Internal to
// engine/io.
#ifndef LORAD_ENGINE_IO_TOKENIZER_VOCABULARY_H_
#define LORAD_ENGINE_IO_TOKENIZER_VOCABULARY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace lorad {

// Filled, then sealed; immutable and thread-safe from then on. Not movable: the map points into the
// tokens.
class Vocabulary {
 public:
  Vocabulary() = default;
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  // The same token with the same id again is OK; kInvalidArgument when either is taken otherwise.
  absl::Status Add(const std::string& token, int32_t id, const std::string& where);
  // kInvalidArgument when it is empty or an id below the largest has no token.
  absl::Status Seal(const std::string& where);
  void MarkSpecial(int32_t id) { special_[id] = true; }

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  std::optional<int32_t> Find(std::string_view token) const;
  const std::string& token(int32_t id) const { return tokens_[id]; }
  bool IsSpecial(int32_t id) const { return special_[id]; }

 private:
  std::vector<std::string> tokens_;  // by id, from Seal on
  std::vector<bool> special_;
  absl::flat_hash_map<absl::string_view, int32_t> ids_;
  absl::flat_hash_map<std::string, int32_t> staged_;  // until Seal
  absl::flat_hash_map<int32_t, std::string> staged_tokens_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_VOCABULARY_H_
