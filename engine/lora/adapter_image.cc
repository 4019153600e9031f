#include "engine/lora/adapter_image.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/core/arena.h"
#include "engine/core/check.h"
#include "engine/core/checked_math.h"
#include "engine/core/float16.h"
#include "engine/core/parallel.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

struct Matrix {
  int64_t bytes = 0;  // rounded up to the alignment
  int64_t* offset = nullptr;
};

void Convert(DType dtype, absl::Span<const float> from, char* to) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, from.data(), from.size() * sizeof(float));
      break;
    case DType::kF64:
      std::copy(from.begin(), from.end(), reinterpret_cast<double*>(to));
      break;
    case DType::kBF16:
      std::transform(from.begin(), from.end(), reinterpret_cast<BFloat16*>(to),
                     [](float value) { return ToBFloat16(value); });
      break;
    default:
      LORAD_CHECK(false);
  }
}

}  // namespace

AdapterLayout LayOutAdapter(absl::Span<const AdapterModuleView> modules, DType dtype,
                            int64_t page_bytes) {
  AdapterLayout layout;
  layout.dtype = dtype;
  layout.page_bytes = page_bytes;
  layout.modules.resize(modules.size());
  std::vector<Matrix> matrices;
  const auto rounded = [&](absl::Span<const float> values) {
    return RoundUp(static_cast<int64_t>(values.size()) * SizeOf(dtype), Arena::kAlignment);
  };
  for (size_t i = 0; i < modules.size(); ++i) {
    const AdapterModuleView& from = modules[i];
    AdapterLayout::Module& module = layout.modules[i];
    module = {from.id, from.rank, from.scaling, from.in_features(), from.out_features()};
    matrices.push_back({rounded(from.a), &module.a});
    matrices.push_back({rounded(from.b), &module.b});
  }
  std::stable_sort(matrices.begin(), matrices.end(),
                   [](const Matrix& x, const Matrix& y) { return x.bytes > y.bytes; });
  size_t first_open = 0;  // pages before it are full
  for (const Matrix& matrix : matrices) {
    size_t page = first_open;
    while (page < layout.used.size() && layout.used[page] + matrix.bytes > page_bytes) ++page;
    if (page == layout.used.size()) {
      const int64_t run = std::max<int64_t>(CeilDiv(matrix.bytes, page_bytes), 1);
      layout.runs.push_back(run);
      layout.used.resize(page + run, page_bytes);
      layout.used.back() = matrix.bytes - (run - 1) * page_bytes;
      *matrix.offset = static_cast<int64_t>(page) * page_bytes;
    } else {
      *matrix.offset = static_cast<int64_t>(page) * page_bytes + layout.used[page];
      layout.used[page] += matrix.bytes;
    }
    while (first_open < layout.used.size() &&
           layout.used[first_open] + Arena::kAlignment > page_bytes)
      ++first_open;
  }
  return layout;
}

absl::StatusOr<std::shared_ptr<const AdapterImage>> AdapterImage::Create(
    std::string id, absl::Span<const AdapterModuleView> modules, DType dtype, PinnedPages& pages) {
  std::shared_ptr<AdapterImage> image(
      new AdapterImage(std::move(id), LayOutAdapter(modules, dtype, pages.page_bytes()), pages));
  const AdapterLayout& layout = image->layout_;
  while (static_cast<int64_t>(image->buffers_.size()) < layout.num_pages()) {
    ASSIGN_OR_RETURN(DeviceBuffer page, pages.Take());
    image->buffers_.push_back(std::move(page));
  }
  ParallelFor(static_cast<int64_t>(modules.size()), WorthwhileThreads(layout.size_bytes()),
              [&](int64_t i) {
                image->Fill(modules[i].a, layout.modules[i].a);
                image->Fill(modules[i].b, layout.modules[i].b);
              });
  return std::shared_ptr<const AdapterImage>(std::move(image));
}

AdapterImage::AdapterImage(std::string id, AdapterLayout layout, PinnedPages& pages)
    : id_(std::move(id)), layout_(std::move(layout)), pages_(pages) {}

AdapterImage::~AdapterImage() {
  for (DeviceBuffer& page : buffers_) pages_.Return(std::move(page));
}

void AdapterImage::Fill(absl::Span<const float> values, int64_t offset) {
  const int64_t element = SizeOf(layout_.dtype);
  while (!values.empty()) {
    const int64_t page = offset / layout_.page_bytes, begin = offset % layout_.page_bytes;
    const auto count =
        std::min(static_cast<int64_t>(values.size()), (layout_.page_bytes - begin) / element);
    Convert(layout_.dtype, values.subspan(0, count),
            static_cast<char*>(buffers_[page].data()) + begin);
    values.remove_prefix(count);
    offset += count * element;
  }
}

}  // namespace lorad
