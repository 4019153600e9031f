#include "engine/infer/constraint/constraint.h"

#include <algorithm>

#include "engine/core/check.h"
#include "engine/infer/constraint/token_classes.h"

namespace lorad {
namespace {

// Half of the cache for states of the grammar, half for whole stacks.
size_t MaskCapacity(int64_t vocab) {
  return static_cast<size_t>(
      std::max<int64_t>(16, Constraint::kMaskCacheBytes / 2 / (TokenMask(vocab).size_bytes() + 1)));
}

Constraint::State Export(const StackPool& pool, const StackSet& open) {
  Constraint::State state;
  state.complete = open.complete;
  for (const int32_t top : open.tops) {
    std::vector<int32_t>& stack = state.stacks.emplace_back();
    for (int32_t f = top; f != kBottom; f = pool.frame(f).parent)
      stack.push_back(pool.frame(f).state);
    std::reverse(stack.begin(), stack.end());
  }
  return state;
}

int32_t PushAll(const std::vector<int32_t>& states, size_t count, StackPool* pool) {
  int32_t top = kBottom;
  for (size_t i = 0; i < count; ++i) top = pool->Push(states[i], top);
  return top;
}

}  // namespace

// Goes through the trie with the stacks that each node leaves open.
class Constraint::Walk {
 public:
  Walk(const Grammar& grammar, const TokenTrie& trie)
      : grammar_(grammar), trie_(trie), pool_(grammar), places_(trie.max_depth() + 2) {}

  StackPool& pool() { return pool_; }

  // Adds the tokens of the nodes [begin, end), which lie below one node, or below the root, where
  // `open` is open. `complete_at`, unless null, gets the nodes after which the stacks may be empty.
  void AddTokens(const StackSet& open, int32_t begin, int32_t end, TokenMask* mask,
                 std::vector<int32_t>* complete_at);

 private:
  // What is open at a depth. Most of the time that is one state in which only bytes can follow;
  // then `state` is it, and the set is not kept.
  struct Place {
    int32_t state = kNoState;
    int32_t parent = kBottom;
    StackSet set;
  };

  void Simplify(Place* place) const;
  bool Step(const Place& from, uint8_t byte, Place* to);

  const Grammar& grammar_;
  const TokenTrie& trie_;
  StackPool pool_;
  std::vector<Place> places_;  // by depth, from where the walk began
};

void Constraint::Walk::Simplify(Place* place) const {
  place->state = kNoState;
  if (place->set.complete || place->set.tops.size() != 1) return;
  const StackPool::Frame& frame = pool_.frame(place->set.tops[0]);
  if (!grammar_.OnlyBytes(frame.state)) return;
  place->state = frame.state;
  place->parent = frame.parent;
}

bool Constraint::Walk::Step(const Place& from, uint8_t byte, Place* to) {
  if (from.state == kNoState) {
    if (!pool_.Step(from.set, byte, &to->set)) return false;
  } else {
    const int32_t next = grammar_.Next(from.state, byte);
    if (next == kNoState) return false;
    if (grammar_.OnlyBytes(next)) {
      to->state = next;
      to->parent = from.parent;
      to->set.complete = false;
      return true;
    }
    if (!pool_.Open(next, from.parent, &to->set)) return false;
  }
  Simplify(to);
  return true;
}

void Constraint::Walk::AddTokens(const StackSet& open, int32_t begin, int32_t end, TokenMask* mask,
                                 std::vector<int32_t>* complete_at) {
  if (begin == end) return;
  const int32_t top = trie_.node(begin).depth;
  places_[0].set = open;
  Simplify(&places_[0]);
  for (int32_t i = begin; i < end;) {
    const TokenTrie::Node& node = trie_.node(i);
    const int32_t depth = node.depth - top;
    Place& place = places_[depth + 1];
    if (!Step(places_[depth], node.byte, &place)) {
      i = node.end;
      continue;
    }
    for (const int32_t id : trie_.TokensAt(i)) mask->Add(id);
    if (complete_at != nullptr && place.set.complete) complete_at->push_back(i);
    ++i;
  }
}

Constraint::Constraint(Grammar grammar, std::shared_ptr<const TokenTrie> trie, int64_t vocab)
    : grammar_(std::move(grammar)),
      trie_(std::move(trie)),
      vocab_(vocab),
      class_of_(TokenClasses(grammar_, trie_->max_depth() + 1)),
      local_(MaskCapacity(vocab)),
      masks_(MaskCapacity(vocab)) {}

// By their classes, in a fixed order: what decides which tokens are allowed.
std::vector<Constraint::Stack> Constraint::DistinctStacks(const State& state) const {
  std::vector<Stack> stacks = state.stacks;
  for (Stack& stack : stacks) {
    for (int32_t& s : stack) s = class_of_[s];
  }
  std::sort(stacks.begin(), stacks.end());
  stacks.erase(std::unique(stacks.begin(), stacks.end()), stacks.end());
  return stacks;
}

std::shared_ptr<const Constraint::LocalTokens> Constraint::Local(int32_t state) const {
  if (std::shared_ptr<const LocalTokens> found = local_.Find(state)) return found;
  auto tokens = std::make_shared<LocalTokens>();
  tokens->mask = TokenMask(vocab_);
  Walk walk(grammar_, *trie_);
  const StackSet open = {{walk.pool().Push(state, kBottom)}};
  walk.AddTokens(open, 0, trie_->num_nodes(), &tokens->mask, &tokens->leaves);
  return local_.Insert(state, std::move(tokens));
}

void Constraint::AddStack(const Stack& stack, TokenMask* mask) const {
  const std::shared_ptr<const LocalTokens> local = Local(stack.back());
  mask->AddAll(local->mask);
  if (stack.size() == 1) return;
  // A token that goes on after the rule's end goes on in what is around it.
  Walk walk(grammar_, *trie_);
  const int32_t below = PushAll(stack, stack.size() - 1, &walk.pool());
  const StackPool::Frame frame = walk.pool().frame(below);
  StackSet open;
  if (!walk.pool().Open(frame.state, frame.parent, &open)) return;
  for (const int32_t leaf : local->leaves)
    walk.AddTokens(open, leaf + 1, trie_->node(leaf).end, mask, nullptr);
}

std::shared_ptr<const TokenMask> Constraint::Allowed(const State& state) const {
  const std::vector<Stack> stacks = DistinctStacks(state);
  if (std::shared_ptr<const TokenMask> found = masks_.Find(stacks)) return found;
  auto mask = std::make_shared<TokenMask>(vocab_);
  for (const Stack& stack : stacks) AddStack(stack, mask.get());
  return masks_.Insert(stacks, std::move(mask));
}

Constraint::State Constraint::Start() const {
  StackPool pool(grammar_);
  StackSet open;
  LORAD_CHECK(pool.Open(grammar_.Start(0), kBottom, &open));  // Grammar::Create refuses others
  return Export(pool, open);
}

bool Constraint::Advance(int32_t token, State* state) const {
  if (token < 0 || token >= trie_->vocab_size() || trie_->bytes(token).empty()) return false;
  return AdvanceBytes(trie_->bytes(token), state);
}

bool Constraint::AdvanceBytes(std::string_view bytes, State* state) const {
  StackPool pool(grammar_);
  StackSet open, after;
  open.complete = state->complete;
  for (const std::vector<int32_t>& stack : state->stacks)
    open.tops.push_back(PushAll(stack, stack.size(), &pool));
  for (const char byte : bytes) {
    if (!pool.Step(open, static_cast<uint8_t>(byte), &after)) return false;
    std::swap(open, after);
  }
  *state = Export(pool, open);
  return true;
}

}  // namespace lorad
