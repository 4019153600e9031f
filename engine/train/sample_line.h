// One line of a JSONL dataset, read and checked but not tokenised.
#ifndef LORAD_ENGINE_TRAIN_SAMPLE_LINE_H_
#define LORAD_ENGINE_TRAIN_SAMPLE_LINE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lorad {

enum class SampleKind : uint8_t { kPromptCompletion, kText, kTokens };
// "prompt_completion", "text", "tokens".
const char* Name(SampleKind kind);

struct SampleLine {
  SampleKind kind = SampleKind::kText;
  std::string prompt;                      // kPromptCompletion
  std::string text;                        // the completion, or the text
  std::vector<int32_t> input_ids, labels;  // kTokens, of equal length, in [0, vocab); labels
                                           // may be kIgnoreLabel
};

// Longer lines are refused: no context that a model has needs them, and a file that is not JSONL
// shows itself early.
inline constexpr int64_t kMaxLineBytes = int64_t{16} << 20;

// Parses one line without its line end. Exactly the fields of one kind, with their types:
// kInvalidArgument "<where>: ..." names the field, what it has and what was expected.
absl::StatusOr<SampleLine> ParseSampleLine(std::string_view line, int64_t vocab_size,
                                           const std::string& where);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_SAMPLE_LINE_H_
