#ifndef LORAD_ENGINE_LORA_ADAPTER_MEMORY_H_
#define LORAD_ENGINE_LORA_ADAPTER_MEMORY_H_

#include <cstdint>

namespace lorad {

// Where the device copies of adapters live: equal pages of device memory, so that adapters of any
// size come and go without holes and share what there is with whoever else takes pages. Nothing is
// reserved and no largest rank is assumed. Source: Sheng et al., "S-LoRA", 2023 (unified paging).
// Thread-compatible: engine thread, page_bytes() apart.
class AdapterMemory {
 public:
  virtual ~AdapterMemory() = default;

  // Bytes of a page, a multiple of 16; pages are aligned to 16 bytes.
  virtual int64_t page_bytes() const = 0;
  virtual int64_t free_pages() const = 0;
  // `count` pages that follow one another, or null when there is no such run.
  virtual void* Take(int64_t count) = 0;
  // REQUIRES: Take(count) gave `pages`; no queued work uses them.
  virtual void Return(void* pages, int64_t count) = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_ADAPTER_MEMORY_H_
