// Pages for adapters in blocks of their own, for tests that need no KV cache.
#ifndef LORAD_TESTS_SUPPORT_BLOCK_ADAPTER_MEMORY_H_
#define LORAD_TESTS_SUPPORT_BLOCK_ADAPTER_MEMORY_H_

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/core/status_macros.h"
#include "engine/device/backend.h"
#include "engine/lora/adapter.h"
#include "engine/lora/adapter_image.h"
#include "engine/lora/adapter_memory.h"
#include "engine/lora/pinned_pages.h"

namespace lorad {

// Each run of pages is one allocation under MemoryTag::kAdapters, within its limit.
class BlockAdapterMemory final : public AdapterMemory {
 public:
  BlockAdapterMemory(Backend& backend, int64_t page_bytes)
      : allocator_(backend.allocator()), page_bytes_(page_bytes) {}

  int64_t page_bytes() const override { return page_bytes_; }
  int64_t free_pages() const override {
    const MemoryUsage usage = allocator_.Usage(MemoryTag::kAdapters);
    if (usage.limit_bytes == 0) return std::numeric_limits<int32_t>::max();
    return (usage.limit_bytes - usage.used_bytes) / page_bytes_;
  }
  void* Take(int64_t count) override {
    absl::StatusOr<DeviceBuffer> block =
        allocator_.Allocate(count * page_bytes_, MemoryTag::kAdapters);
    if (!block.ok()) return nullptr;
    void* const data = block->data();
    blocks_.emplace(data, *std::move(block));
    return data;
  }
  void Return(void* pages, int64_t) override { blocks_.erase(pages); }

 private:
  Allocator& allocator_;
  const int64_t page_bytes_;
  std::map<void*, DeviceBuffer> blocks_;
};

// An adapter on the device, without a store. Blocks.
inline absl::StatusOr<std::shared_ptr<const DeviceAdapter>> MakeDeviceAdapter(
    const HostAdapter& adapter, std::string id, AdapterMemory& memory, Backend& backend,
    Stream& stream) {
  PinnedPages pages(backend.allocator(), memory.page_bytes(), /*kept_bytes=*/0);
  ASSIGN_OR_RETURN(
      const std::shared_ptr<const AdapterImage> image,
      AdapterImage::Create(std::move(id), Views(adapter), backend.activation_dtype(), pages));
  ASSIGN_OR_RETURN(std::shared_ptr<const DeviceAdapter> device,
                   DeviceAdapter::Create(*image, memory, backend, stream));
  RETURN_IF_ERROR(stream.Synchronize());
  return device;
}

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_BLOCK_ADAPTER_MEMORY_H_
