// The `normalizer` of tokenizer.json: what is done to a text before it is split. Internal to
// engine/io.
#ifndef LORAD_ENGINE_IO_TOKENIZER_NORMALIZER_H_
#define LORAD_ENGINE_IO_TOKENIZER_NORMALIZER_H_

#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/io/tokenizer/pattern.h"
#include "engine/io/tokenizer/unicode.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

// Supported: Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace; null does nothing. Thread-safe.
class Normalizer {
 public:
  // kUnimplemented names another type.
  static absl::StatusOr<Normalizer> FromJson(const nlohmann::json* json, const std::string& where);

  // Errors of Pattern::FindAll.
  absl::Status Apply(std::string* text) const;
  bool empty() const { return steps_.empty(); }

 private:
  struct PrependStep {
    std::string prefix;
  };
  struct ReplaceStep {
    Pattern pattern;
    std::string content;
  };
  using Step = std::variant<NormalForm, PrependStep, ReplaceStep>;

  absl::Status Add(const nlohmann::json& json, const std::string& where);

  std::vector<Step> steps_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_NORMALIZER_H_
