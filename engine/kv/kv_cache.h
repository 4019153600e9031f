// Paged KV cache: keys and values of every running sequence in pages of equal size, so that memory
// is never reserved for tokens that do not exist and never fragments. A page is one piece of memory
// over all layers, so pages can also be lent out for other things: adapters live in them.
// Sources: Kwon et al., "PagedAttention", SOSP 2023; Sheng et al., "S-LoRA", 2023 (unified paging).
#ifndef LORAD_ENGINE_KV_KV_CACHE_H_
#define LORAD_ENGINE_KV_KV_CACHE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/backend.h"
#include "engine/kv/page_pool.h"

namespace lorad {

struct KvCacheOptions {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t num_pages = 0;
  int32_t page_tokens = 64;
  DType dtype = DType::kF32;  // of keys and values
};
// Bytes of one page over all layers, keys and values.
int64_t KvPageBytes(const KvCacheOptions& options);

// The pages that hold one sequence's keys and values, in order of position. Owned by the sequence,
// filled and emptied by KvCache alone. Must be released before it is destroyed.
class KvTable {
 public:
  KvTable() = default;
  KvTable(const KvTable&) = delete;
  KvTable& operator=(const KvTable&) = delete;

  absl::Span<const int32_t> pages() const { return pages_; }

 private:
  friend class KvCache;
  std::vector<int32_t> pages_;
};

// One block of memory under MemoryTag::kKvCache, taken at start. Thread-compatible; the counts of
// pages may be read from any thread.
class KvCache {
 public:
  // kResourceExhausted when the block does not fit.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(const KvCacheOptions& options,
                                                         Backend& backend);

  // Lengthens `table` until it has room for `tokens` tokens in all. False, with nothing changed,
  // when there are not enough free pages.
  bool Reserve(KvTable& table, int64_t tokens);
  // Gives all pages back; the table is then as new.
  void Release(KvTable& table);

  // Lends `count` pages that follow one another in memory, or none: null when there is no such run.
  // Their bytes count under `tag` until they come back. REQUIRES: count >= 1.
  void* Lend(int64_t count, MemoryTag tag);
  // REQUIRES: Lend(count, tag) gave `data`.
  void TakeBack(void* data, int64_t count, MemoryTag tag);

  int64_t PagesFor(int64_t tokens) const;
  int64_t free_pages() const { return pool_.free(); }
  // By sequences.
  int64_t used_pages() const { return pool_.used() - lent_pages(); }
  int64_t lent_pages() const { return lent_.load(std::memory_order_relaxed); }
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
  KvCache(const KvCacheOptions& options, Backend& backend, DeviceBuffer buffer)
      : options_(options),
        allocator_(backend.allocator()),
        buffer_(std::move(buffer)),
        pool_(options.num_pages) {}
  TensorView Half(int64_t index) const;

  const KvCacheOptions options_;
  Allocator& allocator_;
  const DeviceBuffer buffer_;
  PagePool pool_;
  std::atomic<int64_t> lent_{0};
};

}  // namespace lorad

#endif  // LORAD_ENGINE_KV_KV_CACHE_H_
