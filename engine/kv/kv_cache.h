// Paged KV cache: keys and values of every running sequence in pages of equal size, so that memory
// is never reserved for tokens that do not exist and never fragments; and of prompts that ended, as
// long as nobody needs their pages. A page is one piece of memory over all layers, so pages can
// also be lent out for other things: adapters live in them. Sources: Kwon et al., "PagedAttention",
// SOSP 2023; Sheng et al., "S-LoRA", 2023 (unified paging).
#ifndef LORAD_ENGINE_KV_KV_CACHE_H_
#define LORAD_ENGINE_KV_KV_CACHE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/backend.h"
#include "engine/kv/page_pool.h"
#include "engine/kv/prefix_cache.h"

namespace lorad {

struct KvCacheOptions {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t num_pages = 0;
  int32_t page_tokens = 64;
  DType dtype = DType::kF32;  // of keys and values
  // Prompts are kept in blocks of this many tokens, a multiple of page_tokens; 0: not at all.
  int64_t prefix_block_tokens = 0;
};
// Bytes of one page over all layers, keys and values.
int64_t KvPageBytes(const KvCacheOptions& options);

// The pages that hold one sequence's keys and values, in order of position. Owned by the sequence,
// filled and emptied by KvCache alone. The first ones may be shared: blocks of the prefix cache,
// which are not to be written. Must be released before it is destroyed.
class KvTable {
 public:
  KvTable() = default;
  KvTable(const KvTable&) = delete;
  KvTable& operator=(const KvTable&) = delete;

  absl::Span<const int32_t> pages() const { return pages_; }

 private:
  friend class KvCache;
  std::vector<int32_t> pages_;
  std::vector<PrefixCache::Block*> blocks_;  // of the first pages
};

// One block of memory under MemoryTag::kKvCache, taken at start. A page is used by sequences, or
// lent, or cached (a prompt's, that no sequence uses now), or free; cached pages are given up as
// soon as others are wanted, so they never make anybody wait. Thread-compatible; the counts of
// pages and evicted_tokens() may be read from any thread.
class KvCache {
 public:
  // kInvalidArgument: a size below 1, or prompt blocks of broken pages. kResourceExhausted when the
  // block does not fit.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(const KvCacheOptions& options,
                                                         Backend& backend);

  // Lengthens `table` until it has room for `tokens` tokens in all. False, with nothing changed,
  // when there are not enough free pages.
  bool Reserve(KvTable& table, int64_t tokens);
  // Gives all pages back; the table is then as new.
  void Release(KvTable& table);

  // Prompts. `tokens` are those of the sequence from its first on; what is shared is whole blocks.
  // Puts known blocks that hold further tokens of `tokens` in the place of the table's own pages,
  // or after its last. Returns how many tokens the table shares now.
  // REQUIRES: the table's own pages hold nothing that is still needed.
  int64_t AdoptPrefix(KvTable& table, const PrefixScope& scope, absl::Span<const int32_t> tokens);
  // Keeps the blocks of `tokens`, all of them computed: where another sequence was quicker, the
  // table uses its pages. The pages must not be written from now on.
  void KeepPrefix(KvTable& table, const PrefixScope& scope, absl::Span<const int32_t> tokens);
  // Gives up what was computed with an adapter. REQUIRES: `adapter` is not empty.
  void DropPrefixes(const std::string& adapter);

  // Lends `count` pages that follow one another in memory, or none: null when there is no such run
  // and giving up prompts makes none. Their bytes count under `tag` until they come back. REQUIRES:
  // count >= 1.
  void* Lend(int64_t count, MemoryTag tag);
  // REQUIRES: Lend(count, tag) gave `data`.
  void TakeBack(void* data, int64_t count, MemoryTag tag);

  int64_t PagesFor(int64_t tokens) const;
  // Cached ones too: what Reserve can give.
  int64_t free_pages() const { return num_pages() - used_pages() - lent_pages(); }
  int64_t used_pages() const { return used_pages_.load(std::memory_order_relaxed); }
  int64_t lent_pages() const { return lent_pages_.load(std::memory_order_relaxed); }
  int64_t cached_pages() const { return cached_pages_.load(std::memory_order_relaxed); }
  // Tokens of cached pages that were given up for others, since start.
  int64_t evicted_tokens() const { return evicted_tokens_.load(std::memory_order_relaxed); }
  // Of one block; 0: no prompts are kept.
  int64_t prefix_block_tokens() const { return options_.prefix_block_tokens; }
  int64_t num_pages() const { return options_.num_pages; }
  int64_t page_bytes() const { return KvPageBytes(options_); }
  int32_t page_tokens() const { return options_.page_tokens; }
  // Tokens that fit when one sequence has the cache to itself.
  int64_t capacity_tokens() const { return options_.num_pages * options_.page_tokens; }

  // [num_pages, page_tokens, num_kv_heads, head_dim] of one layer; the pages are page_bytes()
  // apart.
  TensorView keys(int64_t layer) const { return Half(2 * layer); }
  TensorView values(int64_t layer) const { return Half(2 * layer + 1); }

 private:
  KvCache(const KvCacheOptions& options, Backend& backend, DeviceBuffer buffer);
  TensorView Half(int64_t index) const;
  void Append(KvTable& table, PrefixCache::Block& block);
  void Count();

  const KvCacheOptions options_;
  Allocator& allocator_;
  const DeviceBuffer buffer_;
  PagePool pool_;
  std::optional<PrefixCache> prefixes_;
  std::atomic<int64_t> used_pages_{0};
  std::atomic<int64_t> lent_pages_{0};
  std::atomic<int64_t> cached_pages_{0};
  std::atomic<int64_t> evicted_tokens_{0};
};

}  // namespace lorad

#endif  // LORAD_ENGINE_KV_KV_CACHE_H_
