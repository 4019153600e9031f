// Pages of prompts that were computed, kept for prompts that begin with the same tokens.
// Sources: sharing of pages from Kwon et al., "PagedAttention", SOSP 2023, section 4.4; the tree of
// prefixes that is evicted from its leaves from Zheng et al., "SGLang", NeurIPS 2024, section 3.
#ifndef LORAD_ENGINE_KV_PREFIX_CACHE_H_
#define LORAD_ENGINE_KV_PREFIX_CACHE_H_

#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/node_hash_map.h"
#include "absl/types/span.h"
#include "engine/kv/page_pool.h"

namespace lorad {

// What besides the tokens decides keys and values, and who may notice that a prompt was known: a
// prompt is only found under the scope under which it was computed.
struct PrefixScope {
  std::string base;     // digest of the base model
  std::string adapter;  // sha256 of the adapter's content, its scale included; empty: base model
  std::string tenant;   // empty: the one of a daemon without tenants

  auto operator<=>(const PrefixScope&) const = default;
};

// A block is `block_pages` pages with the keys and values of the tokens they hold, which depend on
// all tokens before them: blocks form a tree, one root a scope. It is found by its scope, its
// parent and its tokens, all compared in full, so no collision of hashes can give a wrong answer.
// The pages of a block are never written again. Blocks that no sequence uses are given up, the
// least recently used first, a child always before its parent.
//
// The cache holds one reference of each page in the pool; who uses a block takes its own.
// Thread-compatible: engine thread.
class PrefixCache {
  struct Root {
    uint64_t id = 0;
    int64_t blocks = 0;
  };
  using Roots = std::map<PrefixScope, Root>;  // of scopes that have blocks
  // Ids of parents and roots are never used again, so what lost its parent cannot be found.
  struct Key {
    uint64_t parent = 0;
    std::vector<int32_t> tokens;

    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H state, const Key& key) {
      return H::combine(std::move(state), key.parent, key.tokens);
    }
  };

 public:
  class Block {
    friend class PrefixCache;

    uint64_t id = 0;
    Roots::iterator root;      // unless dropped
    const Key* key = nullptr;  // in blocks_
    std::vector<int32_t> pages;
    int32_t users = 0;
    std::list<Block*>::iterator place;  // in unused_, while there are no users
    bool dropped = false;               // nobody finds it any more
  };

  // `pool` is not owned and must outlive it. REQUIRES: block_pages >= 1.
  PrefixCache(PagePool& pool, int64_t block_pages);
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;
  ~PrefixCache();  // REQUIRES: no block is used

  // The block of `tokens` after those of `parent` (null: the first ones), or null.
  Block* Find(const PrefixScope& scope, const Block* parent, absl::Span<const int32_t> tokens);
  // Makes it of pages that its caller holds, and used once. Null, with nothing kept, when `parent`
  // was dropped. REQUIRES: Find would return null; `parent` is used.
  Block* Add(const PrefixScope& scope, const Block* parent, absl::Span<const int32_t> tokens,
             absl::Span<const int32_t> pages);

  // Who uses a block uses all its ancestors too, and stops using them after it.
  void Use(Block& block);
  void StopUsing(Block& block);
  static absl::Span<const int32_t> Pages(const Block& block) { return block.pages; }

  // Returns the pages of the least recently used block to the pool. False: every block is used.
  bool EvictOne();
  // Gives up all that was computed with the adapter; what is used goes when it no longer is.
  // REQUIRES: `adapter` is not empty.
  void DropAdapter(const std::string& adapter);

  int64_t block_pages() const { return block_pages_; }
  // Pages that only the cache holds: as good as free, EvictOne() makes them so.
  int64_t unused_pages() const { return static_cast<int64_t>(unused_.size()) * block_pages_; }
  int64_t evicted_blocks() const { return evicted_blocks_; }  // since start

 private:
  void Free(Block& block);

  PagePool& pool_;
  const int64_t block_pages_;
  uint64_t next_id_ = 1;
  Roots roots_;
  absl::node_hash_map<Key, Block> blocks_;
  std::list<Block*> unused_;  // the least recently used first
  int64_t evicted_blocks_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_KV_PREFIX_CACHE_H_
