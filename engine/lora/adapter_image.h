// An adapter as the device wants it: in the backend's activation dtype, laid out in pages.
#ifndef LORAD_ENGINE_LORA_ADAPTER_IMAGE_H_
#define LORAD_ENGINE_LORA_ADAPTER_IMAGE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/core/dtype.h"
#include "engine/device/memory.h"
#include "engine/lora/adapter.h"
#include "engine/lora/pinned_pages.h"

namespace lorad {

// Where the matrices of an adapter stand in its pages, numbered from 0. No matrix crosses the end
// of a page, except that one larger than a page has a run of its own; so only the pages of one run
// must follow one another on the device.
struct AdapterLayout {
  struct Module {
    ModuleId id;
    int32_t rank = 0;
    float scaling = 0;
    int64_t in_features = 0, out_features = 0;
    int64_t a = 0, b = 0;  // offsets of the matrices, bytes
  };
  DType dtype = DType::kF32;
  int64_t page_bytes = 0;
  std::vector<Module> modules;  // in the adapter's order
  std::vector<int64_t> runs;    // pages of each run, in order of the pages; the longest first
  std::vector<int64_t> used;    // bytes of each page that hold something, from its begin

  int64_t num_pages() const { return static_cast<int64_t>(used.size()); }
  int64_t size_bytes() const { return num_pages() * page_bytes; }
};
// First fit, the largest matrix first. Offsets are multiples of 256 bytes where pages are.
AdapterLayout LayOutAdapter(absl::Span<const AdapterModuleView> modules, DType dtype,
                            int64_t page_bytes);

// The host tier: an adapter's pages in page-locked memory, converted once, so that bringing it to a
// device is copying alone. Immutable; thread-safe.
class AdapterImage {
 public:
  // Rounds to `dtype` (kBF16: to nearest even). On several threads when the adapter is large.
  // `pages` is not owned and must outlive the image. Errors of PinnedPages::Take.
  static absl::StatusOr<std::shared_ptr<const AdapterImage>> Create(
      std::string id, absl::Span<const AdapterModuleView> modules, DType dtype, PinnedPages& pages);
  ~AdapterImage();
  AdapterImage(const AdapterImage&) = delete;
  AdapterImage& operator=(const AdapterImage&) = delete;

  const std::string& id() const { return id_; }
  const AdapterLayout& layout() const { return layout_; }
  int64_t size_bytes() const { return layout_.size_bytes(); }
  const void* page(int64_t index) const { return buffers_[index].data(); }

 private:
  AdapterImage(std::string id, AdapterLayout layout, PinnedPages& pages);
  // Writes a matrix at `offset`.
  void Fill(absl::Span<const float> values, int64_t offset);

  const std::string id_;
  const AdapterLayout layout_;
  PinnedPages& pages_;
  std::vector<DeviceBuffer> buffers_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_LORA_ADAPTER_IMAGE_H_
