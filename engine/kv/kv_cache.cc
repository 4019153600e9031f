#include "engine/kv/kv_cache.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "engine/core/check.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"

namespace lorad {

int64_t KvPageBytes(const KvCacheOptions& options) {
  return 2 * options.num_layers * options.page_tokens * options.num_kv_heads * options.head_dim *
         SizeOf(options.dtype);
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(const KvCacheOptions& options,
                                                         Backend& backend) {
  if (options.num_pages < 1 || options.page_tokens < 1 || KvPageBytes(options) < 1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a KV cache of %d pages of %d tokens, %d layers, %d heads of %d: each must be at least 1",
        options.num_pages, options.page_tokens, options.num_layers, options.num_kv_heads,
        options.head_dim));
  }
  if (options.prefix_block_tokens < 0 || options.prefix_block_tokens % options.page_tokens != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "prompts are kept in blocks of %d tokens and a page holds %d; a block must be whole pages",
        options.prefix_block_tokens, options.page_tokens));
  }
  const auto bytes = CheckedMul(options.num_pages, KvPageBytes(options));
  if (!bytes.has_value()) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "a KV cache of %d pages of %d bytes cannot be addressed; ask for fewer tokens",
        options.num_pages, KvPageBytes(options)));
  }
  ASSIGN_OR_RETURN(DeviceBuffer buffer, backend.allocator().Allocate(*bytes, MemoryTag::kKvCache));
  return std::unique_ptr<KvCache>(new KvCache(options, backend, std::move(buffer)));
}

KvCache::KvCache(const KvCacheOptions& options, Backend& backend, DeviceBuffer buffer)
    : options_(options),
      allocator_(backend.allocator()),
      buffer_(std::move(buffer)),
      pool_(options.num_pages) {
  if (options.prefix_block_tokens > 0)
    prefixes_.emplace(pool_, options.prefix_block_tokens / options.page_tokens);
}

int64_t KvCache::PagesFor(int64_t tokens) const { return CeilDiv(tokens, options_.page_tokens); }

bool KvCache::Reserve(KvTable& table, int64_t tokens) {
  const int64_t missing = PagesFor(tokens) - static_cast<int64_t>(table.pages_.size());
  if (missing <= 0) return true;
  if (missing > free_pages()) return false;
  while (pool_.free() < missing) LORAD_CHECK(prefixes_.has_value() && prefixes_->EvictOne());
  for (int64_t i = 0; i < missing; ++i) table.pages_.push_back(pool_.Take());
  Count();
  return true;
}

void KvCache::Release(KvTable& table) {
  // Last page first, so that the next sequence takes them in the order of this one, and that of a
  // prompt the end is given up before the beginning.
  while (!table.blocks_.empty()) {
    prefixes_->StopUsing(*table.blocks_.back());
    table.blocks_.pop_back();
  }
  while (!table.pages_.empty()) {
    pool_.Return(table.pages_.back());
    table.pages_.pop_back();
  }
  Count();
}

int64_t KvCache::AdoptPrefix(KvTable& table, const PrefixScope& scope,
                             absl::Span<const int32_t> tokens) {
  if (!prefixes_.has_value()) return 0;
  const int64_t size = options_.prefix_block_tokens;
  int64_t shared = static_cast<int64_t>(table.blocks_.size()) * size;
  for (; shared + size <= static_cast<int64_t>(tokens.size()); shared += size) {
    const PrefixCache::Block* last = table.blocks_.empty() ? nullptr : table.blocks_.back();
    PrefixCache::Block* next = prefixes_->Find(scope, last, tokens.subspan(shared, size));
    if (next == nullptr) break;
    Append(table, *next);
  }
  Count();
  return shared;
}

void KvCache::KeepPrefix(KvTable& table, const PrefixScope& scope,
                         absl::Span<const int32_t> tokens) {
  if (!prefixes_.has_value()) return;
  const int64_t size = options_.prefix_block_tokens, pages = prefixes_->block_pages();
  while (true) {
    const int64_t shared = AdoptPrefix(table, scope, tokens);
    if (shared + size > static_cast<int64_t>(tokens.size())) break;
    const PrefixCache::Block* last = table.blocks_.empty() ? nullptr : table.blocks_.back();
    const auto own = absl::MakeConstSpan(table.pages_).subspan(shared / size * pages, pages);
    PrefixCache::Block* added = prefixes_->Add(scope, last, tokens.subspan(shared, size), own);
    if (added == nullptr) break;
    table.blocks_.push_back(added);
  }
  Count();
}

void KvCache::DropPrefixes(const std::string& adapter) {
  if (!prefixes_.has_value()) return;
  prefixes_->DropAdapter(adapter);
  Count();
}

// Puts the block behind the last one of the table.
void KvCache::Append(KvTable& table, PrefixCache::Block& block) {
  prefixes_->Use(block);
  size_t at = table.blocks_.size() * prefixes_->block_pages();
  table.blocks_.push_back(&block);
  for (const int32_t page : PrefixCache::Pages(block)) {
    pool_.Share(page);
    if (at < table.pages_.size()) {
      pool_.Return(std::exchange(table.pages_[at], page));
    } else {
      table.pages_.push_back(page);
    }
    ++at;
  }
}

void KvCache::Count() {
  const int64_t cached = prefixes_.has_value() ? prefixes_->unused_pages() : 0;
  used_pages_.store(pool_.used() - cached - lent_pages(), std::memory_order_relaxed);
  cached_pages_.store(cached, std::memory_order_relaxed);
  if (!prefixes_.has_value()) return;
  evicted_tokens_.store(prefixes_->evicted_blocks() * options_.prefix_block_tokens,
                        std::memory_order_relaxed);
}

void* KvCache::Lend(int64_t count, MemoryTag tag) {
  if (count > free_pages()) return nullptr;
  const auto take = [&] { return count == 1 ? pool_.Take() : pool_.TakeRun(count); };
  int32_t first = take();
  while (first < 0 && prefixes_.has_value() && prefixes_->EvictOne()) first = take();
  if (first >= 0) lent_pages_.fetch_add(count, std::memory_order_relaxed);
  Count();
  if (first < 0) return nullptr;
  allocator_.Retag(count * page_bytes(), MemoryTag::kKvCache, tag);
  return static_cast<char*>(buffer_.data()) + first * page_bytes();
}

void KvCache::TakeBack(void* data, int64_t count, MemoryTag tag) {
  const int64_t first =
      (static_cast<char*>(data) - static_cast<char*>(buffer_.data())) / page_bytes();
  for (int64_t i = count - 1; i >= 0; --i) pool_.Return(static_cast<int32_t>(first + i));
  lent_pages_.fetch_sub(count, std::memory_order_relaxed);
  Count();
  allocator_.Retag(count * page_bytes(), tag, MemoryTag::kKvCache);
}

TensorView KvCache::Half(int64_t index) const {
  const int64_t bytes = page_bytes() / (2 * options_.num_layers);
  return {static_cast<char*>(buffer_.data()) + index * bytes, options_.dtype,
          Shape{options_.num_pages, options_.page_tokens, options_.num_kv_heads, options_.head_dim},
          page_bytes() / SizeOf(options_.dtype)};
}

}  // namespace lorad
