#include "engine/infer/constraint/token_classes.h"

#include <cstddef>

#include "absl/container/flat_hash_map.h"
#include "absl/hash/hash.h"
#include "absl/types/span.h"

namespace lorad {
namespace {

class Refinement {
 public:
  explicit Refinement(const Grammar& grammar)
      : grammar_(grammar), class_(grammar.num_states(), 0) {}

  // Splits classes by where their states lead; false when none was split.
  bool Round();
  const std::vector<int32_t>& classes() const { return class_; }

 private:
  int32_t ClassOf(int32_t state) const { return state == kNoState ? kNoState : class_[state]; }
  size_t HashOf(int32_t state) const;
  bool Alike(int32_t a, int32_t b) const;

  const Grammar& grammar_;
  std::vector<int32_t> class_;  // by state: the first state of its class
  size_t count_ = 1;
};

size_t Refinement::HashOf(int32_t state) const {
  size_t hash = absl::HashOf(class_[state], grammar_.RuleOf(state), grammar_.Accepts(state));
  for (const int32_t to : grammar_.Row(state)) hash = hash * 0x9E3779B97F4A7C15u + ClassOf(to);
  return hash;
}

bool Refinement::Alike(int32_t a, int32_t b) const {
  const absl::Span<const Automaton::Call> calls = grammar_.Calls(a), others = grammar_.Calls(b);
  if (class_[a] != class_[b] || grammar_.RuleOf(a) != grammar_.RuleOf(b) ||
      grammar_.Accepts(a) != grammar_.Accepts(b) || calls.size() != others.size())
    return false;
  const absl::Span<const int32_t> row = grammar_.Row(a), other = grammar_.Row(b);
  for (size_t c = 0; c < row.size(); ++c) {
    if (ClassOf(row[c]) != ClassOf(other[c])) return false;
  }
  for (size_t i = 0; i < calls.size(); ++i) {  // both ascending by rule
    if (calls[i].rule != others[i].rule || class_[calls[i].then] != class_[others[i].then])
      return false;
  }
  return true;
}

bool Refinement::Round() {
  absl::flat_hash_map<size_t, int32_t> firsts;  // by hash; the next number where two hashes meet
  std::vector<int32_t> refined(class_.size());
  size_t count = 0;
  for (int32_t state = 0; state < static_cast<int32_t>(class_.size()); ++state) {
    for (size_t hash = HashOf(state);; ++hash) {
      const auto [found, added] = firsts.try_emplace(hash, state);
      if (!added && !Alike(state, found->second)) continue;
      refined[state] = found->second;
      count += added;
      break;
    }
  }
  class_ = std::move(refined);
  const bool split = count != count_;
  count_ = count;
  return split;
}

}  // namespace

std::vector<int32_t> TokenClasses(const Grammar& grammar, int32_t bytes) {
  Refinement refinement(grammar);
  // The first round tells states by what is at them, each further one by one byte more.
  for (int32_t round = 0; round <= bytes; ++round) {
    if (!refinement.Round()) break;
  }
  return refinement.classes();
}

}  // namespace lorad
