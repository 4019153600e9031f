#include "engine/infer/constraint/grammar.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/infer/constraint/expression.h"
#include "engine/infer/constraint/stacks.h"

namespace lorad {

absl::StatusOr<Grammar> Grammar::Create(const std::vector<GrammarRule>& rules) {
  Grammar grammar;
  AutomatonBudget budget;
  for (const GrammarRule& rule : rules) {
    const absl::StatusOr<Automaton> automaton = BuildAutomaton(*rule.body, &budget);
    if (!automaton.ok()) {
      return absl::Status(automaton.status().code(),
                          absl::StrCat(rule.name, ": ", automaton.status().message()));
    }
    grammar.Add(*automaton);
  }
  grammar.PruneDeadEnds();
  if (grammar.starts_[0] == kNoState) {
    return absl::InvalidArgumentError(
        absl::StrCat(rules[0].name, ": no finite text satisfies it; nothing could be generated"));
  }
  RETURN_IF_ERROR(grammar.CheckCalls(rules));
  RETURN_IF_ERROR(grammar.CheckBeginnings(rules));
  return grammar;
}

void Grammar::Add(const Automaton& automaton) {
  const int32_t first = static_cast<int32_t>(states_.size());
  const int32_t rule = static_cast<int32_t>(starts_.size());
  starts_.push_back(automaton.states.empty() ? kNoState : first);
  classes_.push_back(automaton.class_of);
  num_classes_.push_back(automaton.num_classes);
  int32_t row = static_cast<int32_t>(next_.size());
  for (const Automaton::State& from : automaton.states) {
    State state;
    state.rule = rule;
    state.row = row;
    state.first_call = static_cast<int32_t>(calls_.size());
    state.num_calls = static_cast<int32_t>(from.calls.size());
    state.accepts = from.accepts;
    states_.push_back(state);
    for (const Automaton::Call& call : from.calls) calls_.push_back({call.rule, first + call.then});
    row += automaton.num_classes;
  }
  for (const int32_t to : automaton.next) next_.push_back(to == kNoState ? kNoState : first + to);
}

bool Grammar::CanComplete(const State& state, const std::vector<bool>& alive) const {
  if (state.accepts) return true;
  for (int32_t c = 0; c < num_classes_[state.rule]; ++c) {
    const int32_t to = next_[state.row + c];
    if (to != kNoState && alive[to]) return true;
  }
  for (int32_t i = state.first_call; i < state.first_call + state.num_calls; ++i) {
    const int32_t start = starts_[calls_[i].rule];
    if (start != kNoState && alive[start] && alive[calls_[i].then]) return true;
  }
  return false;
}

void Grammar::PruneDeadEnds() {
  std::vector<bool> alive(states_.size(), false);
  // States follow each other in the order in which they are reached, so going back most is found in
  // the first round.
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t s = states_.size(); s-- > 0;) {
      if (alive[s] || !CanComplete(states_[s], alive)) continue;
      alive[s] = changed = true;
    }
  }
  for (int32_t& start : starts_) {
    if (start != kNoState && !alive[start]) start = kNoState;
  }
  for (int32_t& to : next_) {
    if (to != kNoState && !alive[to]) to = kNoState;
  }
  for (State& state : states_) {
    const auto begin = calls_.begin() + state.first_call;
    const auto end = std::stable_partition(begin, begin + state.num_calls, [&](const auto& call) {
      return starts_[call.rule] != kNoState && alive[call.then];
    });
    state.num_calls = static_cast<int32_t>(end - begin);
    const auto row = next_.begin() + state.row;
    state.takes_bytes =
        std::any_of(row, row + num_classes_[state.rule], [](int32_t to) { return to != kNoState; });
  }
}

// A rule that begins with itself would be entered for ever without a byte.
absl::Status Grammar::CheckCalls(const std::vector<GrammarRule>& rules) const {
  enum class Mark : uint8_t { kNew, kOpen, kDone };
  std::vector<Mark> marks(starts_.size(), Mark::kNew);
  std::vector<std::pair<int32_t, int32_t>> path;  // rule, its next call
  for (int32_t root = 0; root < static_cast<int32_t>(starts_.size()); ++root) {
    if (marks[root] != Mark::kNew || starts_[root] == kNoState) continue;
    path.assign(1, {root, 0});
    marks[root] = Mark::kOpen;
    while (!path.empty()) {
      const auto [rule, i] = path.back();
      const absl::Span<const Automaton::Call> calls = Calls(starts_[rule]);
      if (i == static_cast<int32_t>(calls.size())) {
        marks[rule] = Mark::kDone;
        path.pop_back();
        continue;
      }
      ++path.back().second;
      const int32_t callee = calls[i].rule;
      if (marks[callee] == Mark::kOpen) {
        return absl::InvalidArgumentError(
            absl::StrCat(rules[callee].name, ": it refers to itself with nothing in between"));
      }
      if (marks[callee] == Mark::kNew) path.push_back({callee, 0});
      marks[callee] = marks[callee] == Mark::kNew ? Mark::kOpen : marks[callee];
    }
  }
  for (const Automaton::Call& call : calls_) {
    if (starts_[call.rule] != kNoState && Accepts(starts_[call.rule]))
      return absl::InternalError(absl::StrCat(rules[call.rule].name, ": matches the empty text"));
  }
  return absl::OkStatus();
}

// Wherever such a rule is called, no text would get into it.
absl::Status Grammar::CheckBeginnings(const std::vector<GrammarRule>& rules) const {
  for (size_t rule = 0; rule < starts_.size(); ++rule) {
    StackPool pool(*this);
    StackSet open;
    if (starts_[rule] == kNoState || pool.Open(starts_[rule], kBottom, &open)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        rules[rule].name, ": a text can begin in more than ", kMaxStacks,
        " ways, those of the schemas within anyOf and oneOf included; leave alternatives out"));
  }
  return absl::OkStatus();
}

}  // namespace lorad
