// A vocabulary by the bytes of its tokens, so that tokens with a common beginning are looked at
// together.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_TOKEN_TRIE_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_TOKEN_TRIE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace lorad {

// The root is left out; the nodes lie in the order in which a walk from the root meets them, so a
// subtree is a range. Immutable. Thread-safe.
class TokenTrie {
 public:
  struct Node {
    int32_t end;     // of its subtree: the next node that is not below it
    int32_t token;   // of the subtree's first one, in ids
    uint16_t depth;  // 0 for a first byte
    uint8_t byte;
  };

  // bytes[id] are what token `id` adds to a text; empty: nothing, the token is not in the trie.
  // Tokens of more than 65535 bytes are not either.
  explicit TokenTrie(std::vector<std::string> bytes);

  int32_t num_nodes() const { return static_cast<int32_t>(nodes_.size()) - 1; }
  const Node& node(int32_t index) const { return nodes_[index]; }
  // The tokens that end at the node.
  absl::Span<const int32_t> TokensAt(int32_t index) const {
    return absl::MakeConstSpan(ids_).subspan(nodes_[index].token,
                                             nodes_[index + 1].token - nodes_[index].token);
  }
  const std::string& bytes(int32_t id) const { return bytes_[id]; }
  int64_t vocab_size() const { return static_cast<int64_t>(bytes_.size()); }
  int32_t max_depth() const { return max_depth_; }  // of a node, less than 65536

 private:
  const std::vector<std::string> bytes_;
  std::vector<int32_t> ids_;  // by their bytes
  std::vector<Node> nodes_;   // and one more behind the last
  int32_t max_depth_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_TOKEN_TRIE_H_
