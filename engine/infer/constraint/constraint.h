// Which tokens keep a text within a grammar. Guided generation as in Willard and Louf, "Efficient
// Guided Generation for Large Language Models", 2023, extended to context-free grammars as in Dong
// et al., "XGrammar", 2024: what a token does inside the innermost rule is found once for each
// state, whatever rules are around it; only tokens that leave the rule are looked at again.
#ifndef LORAD_ENGINE_INFER_CONSTRAINT_CONSTRAINT_H_
#define LORAD_ENGINE_INFER_CONSTRAINT_CONSTRAINT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/infer/constraint/grammar.h"
#include "engine/infer/constraint/lru_cache.h"
#include "engine/infer/constraint/stacks.h"
#include "engine/infer/constraint/token_trie.h"
#include "engine/infer/token_mask.h"

namespace lorad {

// A grammar over the tokens of one vocabulary. Keeps the masks that it has found, about
// kMaskCacheBytes of them, for all who share it. Thread-safe.
class Constraint {
 public:
  static constexpr int64_t kMaskCacheBytes = int64_t{8} << 20;

  // Where a text is. A value: copies go their own ways.
  struct State {
    // States of the grammar, the outermost rule's first.
    std::vector<std::vector<int32_t>> stacks;
    bool complete = false;  // the text may end here
    // Nothing can follow: the text must end here.
    bool ends() const { return stacks.empty(); }
  };

  // Masks have `vocab` bits, at least as many as the trie has tokens.
  Constraint(Grammar grammar, std::shared_ptr<const TokenTrie> trie, int64_t vocab);

  // Of the empty text.
  State Start() const;
  // The tokens after which the text can still be completed. End-of-sequence ids are not among
  // them: see State::complete.
  std::shared_ptr<const TokenMask> Allowed(const State& state) const;
  // Goes on by one token; false, leaving `state` as it was, when Allowed does not have it, or the
  // text could then be meant in more than kMaxStacks ways.
  bool Advance(int32_t token, State* state) const;
  // The same by any bytes.
  bool AdvanceBytes(std::string_view bytes, State* state) const;

 private:
  using Stack = std::vector<int32_t>;

  // Of one state of the grammar, whatever is below it.
  struct LocalTokens {
    TokenMask mask;               // end in this rule, or in ones that it calls, or at its end
    std::vector<int32_t> leaves;  // nodes of the trie at which this rule may have ended
  };
  class Walk;

  std::vector<Stack> DistinctStacks(const State& state) const;
  std::shared_ptr<const LocalTokens> Local(int32_t state) const;
  void AddStack(const Stack& stack, TokenMask* mask) const;

  const Grammar grammar_;
  const std::shared_ptr<const TokenTrie> trie_;
  const int64_t vocab_;
  const std::vector<int32_t> class_of_;  // see TokenClasses; masks are those of classes
  mutable LruCache<int32_t, LocalTokens> local_;
  mutable LruCache<std::vector<Stack>, TokenMask> masks_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_INFER_CONSTRAINT_CONSTRAINT_H_
