#include "engine/sched/kv_adapter_memory.h"

#include <algorithm>

namespace lorad {

int64_t KvAdapterMemory::free_pages() const {
  const MemoryUsage usage = allocator_.Usage(MemoryTag::kAdapters);
  if (usage.limit_bytes == 0) return cache_.free_pages();
  const int64_t allowed = std::max<int64_t>(usage.limit_bytes - usage.used_bytes, 0);
  return std::min(cache_.free_pages(), allowed / page_bytes());
}

void* KvAdapterMemory::Take(int64_t count) {
  return count > free_pages() ? nullptr : cache_.Lend(count, MemoryTag::kAdapters);
}

}  // namespace lorad
