// The automata of all rules as one: what a constraint is to the code that follows it byte by byte.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_GRAMMAR_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_GRAMMAR_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/infer/constraint/automaton.h"

namespace lorad {

struct GrammarRule;  // expression.h

// States of all rules are numbered through. From every state the end of its rule can be reached:
// what cannot be completed is not there. Immutable. Thread-safe.
class Grammar {
 public:
  // Rule 0 is the whole text. Other rules must not match the empty text. kInvalidArgument, naming
  // the rule: nothing matches rule 0; a rule begins with itself; the automata are too large; a text
  // of a rule can begin in more than kMaxStacks ways (stacks.h).
  static absl::StatusOr<Grammar> Create(const std::vector<GrammarRule>& rules);

  int32_t Start(int32_t rule) const { return starts_[rule]; }
  // The state after `byte`, within the same rule; kNoState: no text goes on like this.
  int32_t Next(int32_t state, uint8_t byte) const {
    const State& from = states_[state];
    return next_[from.row + classes_[from.rule][byte]];
  }
  bool Accepts(int32_t state) const { return states_[state].accepts; }
  bool TakesBytes(int32_t state) const { return states_[state].takes_bytes; }
  absl::Span<const Automaton::Call> Calls(int32_t state) const {
    return absl::MakeConstSpan(calls_).subspan(states_[state].first_call, states_[state].num_calls);
  }
  // Bytes are all that can follow: neither the rule's end nor another rule.
  bool OnlyBytes(int32_t state) const {
    return !states_[state].accepts && states_[state].num_calls == 0;
  }
  // The rule's end is all that can follow.
  bool OnlyEnds(int32_t state) const {
    return !states_[state].takes_bytes && states_[state].num_calls == 0;
  }
  int32_t RuleOf(int32_t state) const { return states_[state].rule; }
  // The states after each class of bytes of the rule.
  absl::Span<const int32_t> Row(int32_t state) const {
    const State& from = states_[state];
    return absl::MakeConstSpan(next_).subspan(from.row, num_classes_[from.rule]);
  }
  int64_t num_states() const { return static_cast<int64_t>(states_.size()); }

 private:
  struct State {
    int32_t rule = 0;
    int32_t row = 0;  // in next_
    int32_t first_call = 0, num_calls = 0;
    bool accepts = false;
    bool takes_bytes = false;
  };

  void Add(const Automaton& automaton);
  void PruneDeadEnds();
  bool CanComplete(const State& state, const std::vector<bool>& alive) const;
  absl::Status CheckCalls(const std::vector<GrammarRule>& rules) const;
  absl::Status CheckBeginnings(const std::vector<GrammarRule>& rules) const;

  std::vector<int32_t> starts_;  // by rule; kNoState: it matches nothing
  std::vector<std::array<uint8_t, 256>> classes_;
  std::vector<int32_t> num_classes_;
  std::vector<State> states_;
  std::vector<int32_t> next_;
  std::vector<Automaton::Call> calls_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_GRAMMAR_H_
