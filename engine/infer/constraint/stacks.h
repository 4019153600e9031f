// Following a text through a grammar: the states that the bytes so far leave open, each with the
// rules it has to return to. A pushdown automaton run on all of its stacks at once.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_STACKS_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_STACKS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/infer/constraint/grammar.h"

namespace lorad {

// A text that could be meant in more ways than this is not gone on with: an ambiguous recursion
// would double them at each level.
inline constexpr size_t kMaxStacks = 256;

inline constexpr int32_t kBottom = -1;  // below the outermost rule

// Stacks that share a pool, by their topmost frames; these take bytes.
struct StackSet {
  std::vector<int32_t> tops;
  bool complete = false;  // the bytes so far are a whole text
};

// Stores stacks as linked frames; equal stacks are the same frame. Grows only: made for one walk.
// Thread-compatible.
class StackPool {
 public:
  struct Frame {
    int32_t state;   // on top: where the text is; below: where it goes on after the rule above
    int32_t parent;  // frame or kBottom
  };

  explicit StackPool(const Grammar& grammar) : grammar_(grammar) {}

  int32_t Push(int32_t state, int32_t parent);
  const Frame& frame(int32_t index) const { return frames_[index]; }

  // `set` becomes what is open at `state` on top of `parent`: there, in the rules that may begin
  // there, and after the rules that may end there. False when it is more than kMaxStacks.
  bool Open(int32_t state, int32_t parent, StackSet* set);
  // `to` becomes what is open after `byte`. False when nothing is, or more than kMaxStacks.
  bool Step(const StackSet& from, uint8_t byte, StackSet* to);

 private:
  void AddOpen(int32_t state, int32_t parent, StackSet* set);

  const Grammar& grammar_;
  std::vector<Frame> frames_;
  absl::flat_hash_map<std::pair<int32_t, int32_t>, int32_t> indices_;
  std::vector<int32_t> visited_;  // frames that the current call has opened
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_STACKS_H_
