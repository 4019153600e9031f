#include "engine/infer/constraint/nfa.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/infer/constraint/automaton.h"

namespace lorad {

absl::StatusOr<Nfa> NfaBuilder::Build(const Expression& body) {
  const int32_t accept = Add({});
  nfa_.start = Begin(body, accept);
  if (!full_) return std::move(nfa_);
  return absl::InvalidArgumentError(
      absl::StrCat("it needs an automaton of more than ", max_nodes_, " nodes, which are left of ",
                   AutomatonBudget{}.nodes, " for the whole constraint",
                   full_at_.empty() ? "" : absl::StrCat("; the limit was reached at ", full_at_),
                   "; repeat less"));
}

int32_t NfaBuilder::Add(const Nfa::Node& node) {
  if (static_cast<int64_t>(nfa_.nodes.size()) >= max_nodes_) {
    if (!full_ && unfolding_ != nullptr) full_at_ = unfolding_->where;
    full_ = true;
    return 0;
  }
  nfa_.nodes.push_back(node);
  return static_cast<int32_t>(nfa_.nodes.size()) - 1;
}

int32_t NfaBuilder::Begin(const Expression& part, int32_t next) {
  if (full_) return 0;
  const auto found = begun_.find({&part, next});
  if (found != begun_.end()) return found->second;
  const int32_t begin = BeginUncached(part, next);
  begun_.emplace(std::pair(&part, next), begin);
  return begin;
}

int32_t NfaBuilder::BeginUncached(const Expression& part, int32_t next) {
  switch (part.kind) {
    case Expression::Kind::kCharacter:
      return BeginCharacter(part.characters, next);
    case Expression::Kind::kSequence:
      for (size_t i = part.parts.size(); i-- > 0;) next = Begin(*part.parts[i], next);
      return next;
    case Expression::Kind::kChoice: {
      int32_t begin = Begin(*part.parts.back(), next);
      for (size_t i = part.parts.size() - 1; i-- > 0;)
        begin = Split(Begin(*part.parts[i], next), begin);
      return begin;
    }
    case Expression::Kind::kRepeat:
      return BeginRepeat(part, next);
    case Expression::Kind::kRule:
      return Add({Nfa::Node::Kind::kRule, 0, 0, part.rule, next, 0});
  }
  return next;
}

int32_t NfaBuilder::BeginCharacter(const CodePoints& characters, int32_t next) {
  int32_t begin = -1;
  for (const ByteSequence& sequence : Utf8Sequences(characters)) {
    int32_t at = next;
    for (size_t i = sequence.size(); i-- > 0;) at = Bytes(sequence[i], at);
    begin = begin < 0 ? at : Split(at, begin);
  }
  if (begin >= 0) return begin;
  // Nothing matches: a node that no byte leaves.
  const int32_t dead = Add({Nfa::Node::Kind::kSplit});
  if (!full_) nfa_.nodes[dead].out = nfa_.nodes[dead].other = dead;
  return dead;
}

int32_t NfaBuilder::BeginRepeat(const Expression& repeat, int32_t next) {
  const Expression* const outer = std::exchange(unfolding_, &repeat);
  const Expression& part = *repeat.parts[0];
  int32_t begin = next;
  if (repeat.max == kNoLimit) {
    const int32_t loop = Add({Nfa::Node::Kind::kSplit});
    const int32_t body = Begin(part, loop);
    if (!full_) {
      nfa_.nodes[loop].out = body;
      nfa_.nodes[loop].other = next;
    }
    begin = loop;
  } else {
    for (int32_t i = repeat.min; i < repeat.max && !full_; ++i)
      begin = Split(Begin(part, begin), next);
  }
  for (int32_t i = 0; i < repeat.min && !full_; ++i) begin = Begin(part, begin);
  unfolding_ = outer;
  return begin;
}

int32_t NfaBuilder::Bytes(ByteRange range, int32_t next) {
  const auto [found, added] = bytes_.try_emplace({next, range.low << 8 | range.high}, 0);
  if (added) {
    const int32_t node = Add({Nfa::Node::Kind::kBytes, range.low, range.high, 0, next, 0});
    found->second = node;  // Add does not touch the map
  }
  return found->second;
}

}  // namespace lorad
