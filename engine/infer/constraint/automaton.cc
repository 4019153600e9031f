#include "engine/infer/constraint/automaton.h"

#include <algorithm>
#include <bitset>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/infer/constraint/expression.h"
#include "engine/infer/constraint/nfa.h"

namespace lorad {
namespace {

using NodeSet = std::vector<int32_t>;  // ascending; splits are followed and left out

class SubsetConstruction {
 public:
  SubsetConstruction(const Nfa& nfa, AutomatonBudget* budget)
      : nfa_(nfa), budget_(budget), given_(*budget), seen_(nfa.nodes.size(), 0) {}

  absl::StatusOr<Automaton> Run() {
    FindClasses();
    StateOf({nfa_.start});
    for (size_t state = 0; state < sets_.size() && !exhausted_; ++state) Expand(state);
    if (exhausted_) return TooLarge();
    return std::move(automaton_);
  }

 private:
  absl::Status TooLarge() const;
  void FindClasses();
  void Expand(size_t state);
  void Collect(int32_t node, NodeSet* set);
  int32_t StateOf(const NodeSet& starts);

  const Nfa& nfa_;
  AutomatonBudget* const budget_;
  const AutomatonBudget given_;  // what was left at the start
  Automaton automaton_;
  bool exhausted_ = false;
  std::vector<NodeSet> sets_;  // by state
  absl::flat_hash_map<NodeSet, int32_t> states_;
  std::vector<int64_t> seen_;  // by node: the last round that met it
  int64_t round_ = 0;
  std::vector<int32_t> pending_;
  std::vector<NodeSet> targets_;  // by class
};

absl::Status SubsetConstruction::TooLarge() const {
  const bool cells = budget_->cells < 0;
  const int64_t left = cells ? given_.cells : given_.work;
  const int64_t all = cells ? AutomatonBudget{}.cells : AutomatonBudget{}.work;
  return absl::InvalidArgumentError(
      absl::StrCat("its deterministic automaton needs more than ", left,
                   cells ? " cells" : " steps to build", ", which are left of ", all,
                   " for the whole constraint; ask for shorter counted repetitions "
                   "({m,n}, maxLength, maxItems), above all after '.*' and the like"));
}

void SubsetConstruction::FindClasses() {
  std::bitset<257> begins;
  for (const Nfa::Node& node : nfa_.nodes) {
    if (node.kind != Nfa::Node::Kind::kBytes) continue;
    begins.set(node.low);
    begins.set(node.high + 1);
  }
  int32_t current = 0;
  for (int byte = 0; byte < 256; ++byte) {
    if (byte > 0 && begins.test(byte)) ++current;
    automaton_.class_of[byte] = static_cast<uint8_t>(current);
  }
  automaton_.num_classes = current + 1;
  targets_.resize(automaton_.num_classes);
}

// Adds what is reached from `node` without a byte or rule.
void SubsetConstruction::Collect(int32_t node, NodeSet* set) {
  pending_.assign(1, node);
  while (!pending_.empty()) {
    const int32_t at = pending_.back();
    pending_.pop_back();
    if (seen_[at] == round_) continue;
    seen_[at] = round_;
    --budget_->work;
    const Nfa::Node& reached = nfa_.nodes[at];
    if (reached.kind == Nfa::Node::Kind::kSplit) {
      pending_.push_back(reached.other);
      pending_.push_back(reached.out);
    } else {
      set->push_back(at);
    }
  }
}

int32_t SubsetConstruction::StateOf(const NodeSet& starts) {
  ++round_;
  NodeSet set;
  for (const int32_t start : starts) Collect(start, &set);
  if (set.empty()) return kNoState;
  std::sort(set.begin(), set.end());
  const auto [found, added] = states_.emplace(set, static_cast<int32_t>(sets_.size()));
  if (!added) return found->second;
  budget_->cells -= automaton_.num_classes;
  if (budget_->cells < 0 || budget_->work < 0) exhausted_ = true;
  sets_.push_back(std::move(set));
  automaton_.states.emplace_back();
  automaton_.next.resize(automaton_.next.size() + automaton_.num_classes, kNoState);
  return static_cast<int32_t>(sets_.size()) - 1;
}

void SubsetConstruction::Expand(size_t state) {
  std::map<int32_t, NodeSet> after_rule;
  for (const int32_t at : NodeSet(sets_[state])) {
    const Nfa::Node& node = nfa_.nodes[at];
    if (node.kind == Nfa::Node::Kind::kAccept) automaton_.states[state].accepts = true;
    if (node.kind == Nfa::Node::Kind::kRule) after_rule[node.rule].push_back(node.out);
    if (node.kind != Nfa::Node::Kind::kBytes) continue;
    for (int c = automaton_.class_of[node.low]; c <= automaton_.class_of[node.high]; ++c) {
      targets_[c].push_back(node.out);
      --budget_->work;
    }
  }
  for (int32_t c = 0; c < automaton_.num_classes; ++c) {
    if (targets_[c].empty()) continue;
    const int32_t to = StateOf(targets_[c]);
    automaton_.next[state * automaton_.num_classes + c] = to;
    targets_[c].clear();
  }
  for (const auto& [rule, outs] : after_rule) {
    const int32_t then = StateOf(outs);
    if (then != kNoState) automaton_.states[state].calls.push_back({rule, then});
  }
}

}  // namespace

absl::StatusOr<Automaton> BuildAutomaton(const Expression& body, AutomatonBudget* budget) {
  ASSIGN_OR_RETURN(const Nfa nfa, NfaBuilder(budget->nodes).Build(body));
  budget->nodes -= static_cast<int64_t>(nfa.nodes.size());
  return SubsetConstruction(nfa, budget).Run();
}

}  // namespace lorad
