// The `decoder` of tokenizer.json, as a chain of stages that tokens stream through. Internal to
// engine/io.
#ifndef LORAD_ENGINE_IO_TOKENIZER_DECODER_H_
#define LORAD_ENGINE_IO_TOKENIZER_DECODER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/io/utf8.h"
#include "nlohmann/json_fwd.hpp"

namespace lorad {

// Decoding token by token is the only way here, so that decoding a whole text and decoding it in
// pieces cannot differ. Each stage turns tokens into tokens; Fuse and ByteLevel join all of them
// into one, which then passes on in fragments. Thread-safe.
class Decoder {
 public:
  // What each stage holds back of one text.
  struct StageState {
    int64_t tokens = 0;      // seen so far (JoinWithSpaces, Metaspace)
    std::string bytes;       // of a run of byte tokens (ByteFallback)
    Utf8Assembler utf8;      // ByteLevel
    int64_t stripped = 0;    // characters taken off the start (Strip)
    bool text_seen = false;  // the start is over (Strip)
    int64_t held = 0;        // characters that may turn out to be the end (Strip)
  };
  using State = std::vector<StageState>;

  // Supported: Sequence, Replace (a literal), ByteFallback, Fuse, Strip, ByteLevel, Metaspace; null
  // joins tokens with spaces. kUnimplemented names another type, or an order that cannot stream.
  static absl::StatusOr<Decoder> FromJson(const nlohmann::json* json, const std::string& where);

  // `continues`: of text that goes on after other text, so that nothing counts as its start.
  State NewState(bool continues = false) const;
  // Appends to `out` what `token` settles. `out` stays valid UTF-8.
  void Push(std::string_view token, State* state, std::string* out) const;
  // What `token` adds to a text that goes on before and after it; bytes of a character may be its
  // neighbours'. Push gives the same bytes, in the end, but for runs of byte tokens that spell what
  // a later stage replaces.
  std::string BytesWithin(std::string_view token) const;
  // Something is taken off the end of the whole text.
  bool TrimsEnd() const;
  // Appends the rest. The state is then that of NewState().
  void Finish(State* state, std::string* out) const;

 private:
  struct JoinWithSpaces {};
  struct Replace {
    std::string pattern, content;
  };
  struct ByteFallback {};
  struct Fuse {};
  struct ByteLevel {};
  struct Strip {
    std::string content;  // one character
    int32_t start, stop;
    bool fused;  // after Fuse: of the whole text, not of each token
  };
  struct Metaspace {
    std::string replacement;
    bool drop_first;
  };
  using Stage =
      std::variant<JoinWithSpaces, Replace, ByteFallback, Fuse, ByteLevel, Strip, Metaspace>;

  absl::Status Add(const nlohmann::json& json, const std::string& where);
  absl::Status AddStrip(const nlohmann::json& json, const std::string& where);
  absl::Status AddMetaspace(const nlohmann::json& json, const std::string& where);

  std::string BytesFrom(size_t index, std::string_view token) const;
  // Gives `token` to stage `index` and on; past the last one it is text.
  void Run(size_t index, std::string_view token, State* state, std::string* out) const;
  void FlushBytes(size_t index, State* state, std::string* out) const;
  void StripFused(size_t index, std::string_view fragment, State* state, std::string* out) const;

  std::vector<Stage> stages_;
  bool fused_ = false;  // while loading: a Fuse or ByteLevel has been seen
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_TOKENIZER_DECODER_H_
