// One rule of a grammar as a deterministic automaton over the bytes of UTF-8.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_AUTOMATON_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_AUTOMATON_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

struct Expression;  // expression.h

// State 0 is the start. Calls of rules are letters beside the bytes: going over one needs a text of
// that rule. So it is deterministic in each letter, though several may be open at once.
struct Automaton {
  struct Call {
    int32_t rule;
    int32_t then;  // the state after the rule's text
  };
  struct State {
    bool accepts = false;
    std::vector<Call> calls;
  };
  std::vector<State> states;
  // Bytes that no state tells apart share a class.
  std::array<uint8_t, 256> class_of{};
  int32_t num_classes = 1;
  std::vector<int32_t> next;  // [state][class]: the state after such a byte, kNoState
};

inline constexpr int32_t kNoState = -1;

// What all rules of one grammar may still take. The defaults hold a JSON string of at most 4,000
// characters, or a pattern's simple class 10,000 times, and keep an automaton within 16 MiB.
struct AutomatonBudget {
  int64_t nodes = int64_t{1} << 20;  // of the nondeterministic automaton
  int64_t cells = int64_t{1} << 22;  // of `next`
  int64_t work = int64_t{1} << 24;   // moves of the subset construction
};

// Thompson's construction, then subsets (Hopcroft, Motwani and Ullman, 2006, sections 2.3 and
// 3.2). kInvalidArgument when `budget` is exhausted, naming what was left of it; where it is the
// nodes, also the innermost repetition that was being unfolded. Takes what it uses off `budget`.
absl::StatusOr<Automaton> BuildAutomaton(const Expression& body, AutomatonBudget* budget);

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_AUTOMATON_H_
