// The nondeterministic automaton of an expression. Internal to engine/infer/constraint.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_NFA_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_NFA_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/infer/constraint/expression.h"

namespace lorad {

struct Nfa {
  struct Node {
    enum class Kind : uint8_t { kBytes, kRule, kSplit, kAccept };
    Kind kind = Kind::kAccept;
    uint8_t low = 0, high = 0;  // kBytes
    int32_t rule = 0;           // kRule
    int32_t out = 0;
    int32_t other = 0;  // kSplit: `out` or `other`, without a byte
  };
  std::vector<Node> nodes;
  int32_t start = 0;
};

// Built from the end to the beginning, so that equal ends of alternatives become the same nodes:
// what the subset construction would otherwise keep apart.
class NfaBuilder {
 public:
  explicit NfaBuilder(int64_t max_nodes) : max_nodes_(max_nodes) {}
  // kInvalidArgument when it takes more than `max_nodes` nodes.
  absl::StatusOr<Nfa> Build(const Expression& body);

 private:
  // The node at which `part` begins when `next` follows it.
  int32_t Begin(const Expression& part, int32_t next);
  int32_t BeginUncached(const Expression& part, int32_t next);
  int32_t BeginCharacter(const CodePoints& characters, int32_t next);
  int32_t BeginRepeat(const Expression& repeat, int32_t next);
  int32_t Bytes(ByteRange range, int32_t next);
  int32_t Split(int32_t a, int32_t b) { return Add({Nfa::Node::Kind::kSplit, 0, 0, 0, a, b}); }
  int32_t Add(const Nfa::Node& node);

  const int64_t max_nodes_;
  Nfa nfa_;
  bool full_ = false;
  const Expression* unfolding_ = nullptr;  // the innermost repetition
  std::string full_at_;
  absl::flat_hash_map<std::pair<const Expression*, int32_t>, int32_t> begun_;
  absl::flat_hash_map<std::pair<int32_t, int32_t>, int32_t> bytes_;  // by next and range
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_NFA_H_
