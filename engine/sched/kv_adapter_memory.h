#ifndef LORAD_ENGINE_SCHED_KV_ADAPTER_MEMORY_H_
#define LORAD_ENGINE_SCHED_KV_ADAPTER_MEMORY_H_

#include <cstdint>

#include "engine/device/backend.h"
#include "engine/kv/kv_cache.h"
#include "engine/lora/adapter_memory.h"

namespace lorad {

// Adapters live in pages of the KV cache, counted under MemoryTag::kAdapters: one budget for both,
// so that idle adapters give way to sequences and free pages take more adapters.
// Thread-compatible: engine thread.
class KvAdapterMemory final : public AdapterMemory {
 public:
  // Not owned. A limit of MemoryTag::kAdapters is kept.
  KvAdapterMemory(KvCache& cache, Backend& backend)
      : cache_(cache), allocator_(backend.allocator()) {}

  int64_t page_bytes() const override { return cache_.page_bytes(); }
  int64_t free_pages() const override;
  void* Take(int64_t count) override;
  void Return(void* pages, int64_t count) override {
    cache_.TakeBack(pages, count, MemoryTag::kAdapters);
  }

 private:
  KvCache& cache_;
  Allocator& allocator_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_SCHED_KV_ADAPTER_MEMORY_H_
