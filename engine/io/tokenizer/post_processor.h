// The `post_processor` of tokenizer.json: the ids around an encoded text. Internal to engine/io.
#ifndef LORAD_ENGINE_IO_TOKENIZER_POST_PROCESSOR_H_
#define LORAD_ENGINE_IO_TOKENIZER_POST_PROCESSOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

// Supported: Sequence, TemplateProcessing (its `single` form), ByteLevel (which moves character
// offsets alone); null adds nothing. Thread-safe.
class PostProcessor {
 public:
  // kUnimplemented names another type; kInvalidArgument an id outside the vocabulary.
  static absl::StatusOr<PostProcessor> FromJson(const nlohmann::json* json, int32_t vocab_size,
                                                const std::string& where);

  const std::vector<int32_t>& before() const { return before_; }
  const std::vector<int32_t>& after() const { return after_; }

 private:
  absl::Status Add(const nlohmann::json& json, int32_t vocab_size, const std::string& where);
  absl::Status AddTemplate(const nlohmann::json& json, int32_t vocab_size,
                           const std::string& where);

  std::vector<int32_t> before_, after_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_POST_PROCESSOR_H_
