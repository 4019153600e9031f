// The `pre_tokenizer` of tokenizer.json: cuts a text into the pieces that no token crosses.
// Internal to engine/io.
#ifndef LORAD_ENGINE_IO_TOKENIZER_PRE_TOKENIZER_H_
#define LORAD_ENGINE_IO_TOKENIZER_PRE_TOKENIZER_H_

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/io/tokenizer/pattern.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

struct TextPiece {
  std::string_view text;  // never empty after Apply
  bool starts_input;      // its first byte stands for the first of the whole input
};

// What becomes of the matches of a split.
enum class SplitBehavior : uint8_t {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,  // neighbouring matches join
};

// Supported: Sequence, Split, ByteLevel (last), Digits, Metaspace; null cuts nothing. Thread-safe.
class PreTokenizer {
 public:
  // kUnimplemented names another type, or a ByteLevel before another.
  static absl::StatusOr<PreTokenizer> FromJson(const nlohmann::json* json,
                                               const std::string& where);

  // Replaces `pieces` by what they are cut into. Text that a stage changes goes to `storage`, which
  // must outlive the pieces (a deque: growing moves nothing). Errors of Pattern::FindAll.
  absl::Status Apply(std::vector<TextPiece>* pieces, std::deque<std::string>* storage) const;

  // Whether the model's tokens spell bytes with stand-ins (see ByteLevelChar). The pieces keep the
  // bytes themselves: the model maps them.
  bool byte_level() const { return byte_level_; }

 private:
  struct SplitStep {
    Pattern pattern;
    SplitBehavior behavior;
    bool invert;
  };
  struct DigitsStep {
    bool individual;
  };
  struct PrefixSpaceStep {};  // of ByteLevel
  struct MetaspaceStep {
    enum class Prepend : uint8_t { kAlways, kFirst, kNever };
    std::string replacement;
    Prepend prepend;
    bool split;
  };
  using Step = std::variant<SplitStep, DigitsStep, PrefixSpaceStep, MetaspaceStep>;

  absl::Status Add(const nlohmann::json& json, const std::string& where);
  absl::Status AddSplit(const nlohmann::json& json, const std::string& where);
  absl::Status AddByteLevel(const nlohmann::json& json, const std::string& where);
  absl::Status AddMetaspace(const nlohmann::json& json, const std::string& where);
  static absl::Status ApplyStep(const Step& step, TextPiece piece, std::deque<std::string>* storage,
                                std::vector<TextPiece>* out);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

// Cuts `piece` at `matches` (in order, not overlapping) and appends the non-empty parts.
void SplitPiece(TextPiece piece, const std::vector<TextRange>& matches, SplitBehavior behavior,
                bool invert, std::vector<TextPiece>* out);

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_PRE_TOKENIZER_H_
