// JSONL datasets as token ids in host memory.
#ifndef LORAD_ENGINE_TRAIN_DATASET_H_
#define LORAD_ENGINE_TRAIN_DATASET_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/io/tokenizer.h"
#include "engine/model/config.h"
#include "engine/train/spec.h"

namespace lorad {

// All samples of one file, one after another. Immutable once read. Thread-safe.
struct TokenDataset {
  struct Sample {
    absl::Span<const int32_t> ids;
    // Aligned with ids as in Hugging Face files: ids[t] where t is in the loss, else kIgnoreLabel
    // (pre-tokenised files may hold any label). labels[0] is never predicted.
    absl::Span<const int32_t> labels;
  };

  std::vector<int32_t> ids, labels;
  std::vector<int64_t> begins = {0};  // [samples + 1]: where each sample starts in ids
  DatasetReport report;
  std::string sha256;  // of the file's bytes

  int64_t num_samples() const { return static_cast<int64_t>(begins.size()) - 1; }
  int64_t num_tokens(int64_t sample) const { return begins[sample + 1] - begins[sample]; }
  Sample sample(int64_t index) const {
    const size_t begin = begins[index], count = num_tokens(index);
    return {absl::MakeSpan(ids).subspan(begin, count),
            absl::MakeSpan(labels).subspan(begin, count)};
  }
};

// Reads a file of one sample a line; blank lines are passed over. What becomes of a line, with BOS
// standing for what the tokenizer's post-processor puts in front of a text:
//   prompt, completion   BOS prompt completion EOS     loss on completion and EOS
//   text                 BOS text EOS                  loss on all of it but BOS
//   input_ids, labels    as they are                   loss where labels are not -100
// Prompt and completion are encoded apart, as at inference, where the prompt is all there is. Text
// that spells a special token stays plain text. EOS is the tokenizer's end token if generation
// stops at it, else the model's first end token: an adapter must learn to end what it writes.
// Longer samples lose their end and are counted.
//
// kInvalidArgument "<path> line N: ...", for anything in a line that is not as above, a sample
// without a token in the loss (also when truncation took it), an empty file, a byte order mark,
// text without a tokenizer or an end token, max_seq_length outside [2, the model's context].
// kDataLoss when the file is rewritten meanwhile. Errors of MmapFile::Open. Thread-safe.
absl::StatusOr<TokenDataset> ReadDataset(const std::string& path, int32_t max_seq_length,
                                         const ModelConfig& config, const Tokenizer* tokenizer);

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_DATASET_H_
