#include "engine/infer/constraint/stacks.h"

#include <algorithm>

namespace lorad {

int32_t StackPool::Push(int32_t state, int32_t parent) {
  const auto [found, added] =
      indices_.try_emplace({state, parent}, static_cast<int32_t>(frames_.size()));
  if (added) frames_.push_back({state, parent});
  return found->second;
}

void StackPool::AddOpen(int32_t state, int32_t parent, StackSet* set) {
  const int32_t top = Push(state, parent);
  if (visited_.size() > kMaxStacks ||
      std::find(visited_.begin(), visited_.end(), top) != visited_.end())
    return;
  visited_.push_back(top);
  if (grammar_.TakesBytes(state)) set->tops.push_back(top);
  if (grammar_.Accepts(state)) {
    if (parent == kBottom) {
      set->complete = true;
    } else {
      const Frame below = frames_[parent];
      AddOpen(below.state, below.parent, set);
    }
  }
  for (const Automaton::Call& call : grammar_.Calls(state)) {
    // Where nothing but this rule's end would follow, there is nothing to return to.
    const int32_t back = grammar_.OnlyEnds(call.then) ? parent : Push(call.then, parent);
    AddOpen(grammar_.Start(call.rule), back, set);
  }
}

bool StackPool::Open(int32_t state, int32_t parent, StackSet* set) {
  *set = {};
  visited_.clear();
  AddOpen(state, parent, set);
  return visited_.size() <= kMaxStacks;
}

bool StackPool::Step(const StackSet& from, uint8_t byte, StackSet* to) {
  to->tops.clear();
  to->complete = false;
  visited_.clear();
  for (const int32_t top : from.tops) {
    const Frame frame = frames_[top];
    const int32_t next = grammar_.Next(frame.state, byte);
    if (next != kNoState) AddOpen(next, frame.parent, to);
  }
  return visited_.size() <= kMaxStacks && (to->complete || !to->tops.empty());
}

}  // namespace lorad
