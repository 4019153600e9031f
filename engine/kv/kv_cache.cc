#include "engine/kv/kv_cache.h"

#include <utility>

#include "absl/strings/str_format.h"
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
  const auto bytes = CheckedMul(options.num_pages, KvPageBytes(options));
  if (!bytes.has_value()) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "a KV cache of %d pages of %d bytes cannot be addressed; ask for fewer tokens",
        options.num_pages, KvPageBytes(options)));
  }
  ASSIGN_OR_RETURN(DeviceBuffer buffer, backend.allocator().Allocate(*bytes, MemoryTag::kKvCache));
  return std::unique_ptr<KvCache>(new KvCache(options, backend, std::move(buffer)));
}

int64_t KvCache::PagesFor(int64_t tokens) const { return CeilDiv(tokens, options_.page_tokens); }

bool KvCache::Reserve(KvTable& table, int64_t tokens) {
  const int64_t missing = PagesFor(tokens) - static_cast<int64_t>(table.pages_.size());
  if (missing > free_pages()) return false;
  for (int64_t i = 0; i < missing; ++i) table.pages_.push_back(pool_.Take());
  return true;
}

void KvCache::Release(KvTable& table) {
  // Last page first, so that the next sequence takes them in the order of this one.
  while (!table.pages_.empty()) {
    pool_.Return(table.pages_.back());
    table.pages_.pop_back();
  }
}

void* KvCache::Lend(int64_t count, MemoryTag tag) {
  const int32_t first = count == 1 ? pool_.Take() : pool_.TakeRun(count);
  if (first < 0) return nullptr;
  lent_.fetch_add(count, std::memory_order_relaxed);
  allocator_.Retag(count * page_bytes(), MemoryTag::kKvCache, tag);
  return static_cast<char*>(buffer_.data()) + first * page_bytes();
}

void KvCache::TakeBack(void* data, int64_t count, MemoryTag tag) {
  const int64_t first =
      (static_cast<char*>(data) - static_cast<char*>(buffer_.data())) / page_bytes();
  lent_.fetch_sub(count, std::memory_order_relaxed);
  for (int64_t i = count - 1; i >= 0; --i) pool_.Return(static_cast<int32_t>(first + i));
  allocator_.Retag(count * page_bytes(), tag, MemoryTag::kKvCache);
}

TensorView KvCache::Half(int64_t index) const {
  const int64_t bytes = page_bytes() / (2 * options_.num_layers);
  return {static_cast<char*>(buffer_.data()) + index * bytes, options_.dtype,
          Shape{options_.num_pages, options_.page_tokens, options_.num_kv_heads, options_.head_dim},
          page_bytes() / SizeOf(options_.dtype)};
}

}  // namespace lorad
