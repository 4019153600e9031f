#include "engine/kv/prefix_cache.h"

#include "engine/core/check.h"

namespace lorad {

PrefixCache::PrefixCache(PagePool& pool, int64_t block_pages)
    : pool_(pool), block_pages_(block_pages) {
  LORAD_CHECK(block_pages >= 1);
}

PrefixCache::~PrefixCache() {
  while (EvictOne()) {
  }
  LORAD_CHECK(blocks_.empty());
}

PrefixCache::Block* PrefixCache::Find(const PrefixScope& scope, const Block* parent,
                                      absl::Span<const int32_t> tokens) {
  Key key;
  key.tokens.assign(tokens.begin(), tokens.end());
  if (parent != nullptr) {
    key.parent = parent->id;
  } else if (const auto root = roots_.find(scope); root != roots_.end()) {
    key.parent = root->second.id;
  }
  const auto found = blocks_.find(key);
  return found == blocks_.end() || found->second.dropped ? nullptr : &found->second;
}

PrefixCache::Block* PrefixCache::Add(const PrefixScope& scope, const Block* parent,
                                     absl::Span<const int32_t> tokens,
                                     absl::Span<const int32_t> pages) {
  LORAD_CHECK(static_cast<int64_t>(pages.size()) == block_pages_);
  if (parent != nullptr && parent->dropped) return nullptr;
  const auto [root, fresh] = roots_.try_emplace(scope);
  if (fresh) root->second.id = next_id_++;
  const uint64_t above = parent == nullptr ? root->second.id : parent->id;
  const auto [place, added] =
      blocks_.try_emplace(Key{above, std::vector<int32_t>(tokens.begin(), tokens.end())});
  LORAD_CHECK(added);
  ++root->second.blocks;
  Block& block = place->second;
  block.id = next_id_++;
  block.root = root;
  block.key = &place->first;
  block.pages.assign(pages.begin(), pages.end());
  block.users = 1;
  for (const int32_t page : pages) pool_.Share(page);
  return &block;
}

void PrefixCache::Use(Block& block) {
  if (block.users++ == 0) unused_.erase(block.place);
}

void PrefixCache::StopUsing(Block& block) {
  LORAD_CHECK(block.users > 0);
  if (--block.users > 0) return;
  block.place = unused_.insert(unused_.end(), &block);
  if (block.dropped) Free(block);
}

bool PrefixCache::EvictOne() {
  if (unused_.empty()) return false;
  Free(*unused_.front());
  ++evicted_blocks_;
  return true;
}

void PrefixCache::DropAdapter(const std::string& adapter) {
  LORAD_CHECK(!adapter.empty());
  std::vector<Block*> unused;
  for (auto& [key, block] : blocks_) {
    if (block.dropped || block.root->first.adapter != adapter) continue;
    block.dropped = true;
    if (block.users == 0) unused.push_back(&block);
  }
  for (Block* block : unused) Free(*block);
  std::erase_if(roots_, [&](const auto& root) { return root.first.adapter == adapter; });
}

// REQUIRES: it is not used.
void PrefixCache::Free(Block& block) {
  unused_.erase(block.place);
  for (const int32_t page : block.pages) pool_.Return(page);
  if (!block.dropped && --block.root->second.blocks == 0) roots_.erase(block.root);
  blocks_.erase(*block.key);
}

}  // namespace lorad
