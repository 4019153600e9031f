// Text to token ids and back, as the model's tokenizer.json defines it.
#ifndef LORAD_ENGINE_IO_TOKENIZER_H_
#define LORAD_ENGINE_IO_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lorad {

struct EncodeOptions {
  // Adds what the file's post-processor adds, e.g. the beginning-of-text token.
  bool add_special_tokens = true;
  // Text that spells a special token ("<|im_end|>") becomes that token, as in transformers. False
  // for text of a user inside a prompt that somebody else composed: then it stays plain text.
  bool allow_special = true;
};

struct DecodeOptions {
  bool skip_special_tokens = true;
  // The ids go on with a text, so that its start (of which some tokenizers take a space off) is not
  // here.
  bool continues_text = false;
};

// Supported: BPE, byte-level (GPT-2, Llama-3, Qwen2) and SentencePiece-style with byte fallback.
// Anything else in the file is refused by name (kUnimplemented), never ignored; its `truncation`
// and `padding` are defaults of a caller and do not apply here. Equal to the `tokenizers` package,
// id for id, save that a character that the vocabulary cannot express is an error, not dropped, and
// that decoding skips a special token even if it is a normalised one.
// Immutable. Thread-safe.
class Tokenizer {
 public:
  // Reads `directory`/tokenizer.json, and from tokenizer_config.json, if there, which tokens begin
  // and end a text. kNotFound when there is no tokenizer.json; kInvalidArgument for a malformed
  // file, naming the item: gaps or repetitions among ids, merges of unknown tokens, bad byte
  // tokens.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Load(const std::string& directory);
  // The same from the files' contents; `config` may be empty. `where` names the source in errors.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> FromJson(std::string_view tokenizer_json,
                                                                   std::string_view config_json,
                                                                   std::string_view where);
  ~Tokenizer();

  // kInvalidArgument for invalid UTF-8 (with the byte offset) or a character that the vocabulary
  // lacks; kResourceExhausted when the split pattern backtracks past its limit. Time grows as
  // n log n with the length of the text, whatever the text is.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options = {}) const;

  // Valid UTF-8: bytes that make no character become U+FFFD. Ids without a token (see HasToken)
  // add nothing.
  std::string Decode(absl::Span<const int32_t> ids, const DecodeOptions& options = {}) const;

  // Largest id + 1; every id below has a token.
  int32_t vocab_size() const;
  bool HasToken(int32_t id) const { return id >= 0 && id < vocab_size(); }
  // The token as the file spells it ("Ġthe", "<0x0A>").
  std::optional<int32_t> TokenToId(std::string_view token) const;
  // REQUIRES: HasToken(id).
  const std::string& IdToToken(int32_t id) const;
  // True for added tokens marked special: Decode skips them when told to.
  bool IsSpecial(int32_t id) const;

  // What the token adds in the middle of a text, as bytes: a character may take several tokens.
  // Empty for special tokens and ids without a token. Joined, the bytes of ids are what Decode
  // makes of them with `continues_text`, where that is valid UTF-8; but not where byte tokens spell
  // the file's stand-in for a space, which Decode may take for one.
  std::string TokenBytes(int32_t id) const;
  // Decode takes something off a text's end, so that it is not all of its tokens' bytes.
  bool TrimsEnd() const;

  // From tokenizer_config.json; bos also from the post-processor's template.
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;

  struct Parts;  // the stages; engine/io/tokenizer/ has them

 private:
  friend class IncrementalDecoder;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);
  std::unique_ptr<const Parts> parts_;
};

// Decodes token by token. All pieces together equal Tokenizer::Decode of all ids, and each piece is
// valid UTF-8: bytes that may still become a character are held back. Thread-compatible.
class IncrementalDecoder {
 public:
  // `tokenizer` must outlive it.
  explicit IncrementalDecoder(const Tokenizer* tokenizer, const DecodeOptions& options = {});
  ~IncrementalDecoder();
  IncrementalDecoder(IncrementalDecoder&&) noexcept;
  IncrementalDecoder& operator=(IncrementalDecoder&&) noexcept;

  // The text that this id settles; often empty in the middle of a character.
  std::string Push(int32_t id);
  // The rest, after the last id. The decoder is then as new.
  std::string Finish();

 private:
  struct State;
  const Tokenizer* tokenizer_;
  DecodeOptions options_;
  std::unique_ptr<State> state_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_H_
