#include "engine/lora/adapter.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/check.h"
#include "engine/core/parallel.h"
#include "engine/core/status_macros.h"
#include "engine/io/sha256.h"
#include "engine/lora/adapter_image.h"
#include "engine/lora/adapter_memory.h"

namespace lorad {
namespace {

std::string_view Bytes(absl::Span<const float> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

// The scaling by its bits: what reaches the arithmetic, however r, alpha and rsLoRA gave it.
std::string ModuleDigest(const AdapterModuleView& module) {
  Sha256 sha256;
  sha256.Update(absl::StrCat(ModulePath(module.id), " ", module.rank, " ", module.in_features(),
                             " ", module.out_features(), " ",
                             std::bit_cast<uint32_t>(module.scaling), "\n"));
  sha256.Update(Bytes(module.a));
  sha256.Update(Bytes(module.b));
  return sha256.HexDigest();
}

}  // namespace

int64_t HostAdapter::num_parameters() const {
  int64_t count = 0;
  for (const AdapterModule& module : modules)
    count += static_cast<int64_t>(module.a.size() + module.b.size());
  return count;
}

std::vector<AdapterModuleView> Views(const HostAdapter& adapter) {
  std::vector<AdapterModuleView> views;
  for (const AdapterModule& module : adapter.modules)
    views.push_back({module.id, module.rank, module.scaling, module.a, module.b});
  return views;
}

std::string AdapterDigest(absl::Span<const AdapterModuleView> modules) {
  int64_t bytes = 0;
  for (const AdapterModuleView& module : modules)
    bytes += static_cast<int64_t>((module.a.size() + module.b.size()) * sizeof(float));
  std::vector<std::string> digests(modules.size());
  ParallelFor(static_cast<int64_t>(modules.size()), WorthwhileThreads(bytes),
              [&](int64_t i) { digests[i] = ModuleDigest(modules[i]); });
  Sha256 sha256;
  sha256.Update("lorad adapter 2\n");
  for (const std::string& digest : digests) sha256.Update(digest);
  return sha256.HexDigest();
}

std::string AdapterDigest(const HostAdapter& adapter) { return AdapterDigest(Views(adapter)); }

DeviceAdapter::DeviceAdapter(std::string id, AdapterMemory& memory)
    : id_(std::move(id)),
      instance_([] {
        static std::atomic<uint64_t> last = 0;
        return ++last;
      }()),
      memory_(memory) {}

absl::StatusOr<std::shared_ptr<const DeviceAdapter>> DeviceAdapter::Create(
    const AdapterImage& image, AdapterMemory& memory, Backend& backend, Stream& stream) {
  std::shared_ptr<DeviceAdapter> device(new DeviceAdapter(image.id(), memory));
  RETURN_IF_ERROR(device->TakePages(image));
  device->PlaceModules(image);
  if (const absl::Status status = device->Copy(image, backend, stream); !status.ok()) {
    (void)stream.Synchronize();  // what was queued writes to pages that go back now
    return status;
  }
  return std::shared_ptr<const DeviceAdapter>(std::move(device));
}

DeviceAdapter::~DeviceAdapter() {
  for (const Run& run : runs_) memory_.Return(run.pages, run.count);
}

absl::Status DeviceAdapter::TakePages(const AdapterImage& image) {
  const AdapterLayout& layout = image.layout();
  LORAD_CHECK(layout.page_bytes == memory_.page_bytes());
  for (const int64_t count : layout.runs) {
    void* const pages = memory_.Take(count);
    if (pages == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat(
          Name(MemoryTag::kAdapters), " memory: adapter ", id_, " needs ", layout.num_pages(),
          " pages of ", layout.page_bytes, " bytes, ", page_data_.size(), " could be had"));
    }
    runs_.push_back({pages, count});
    for (int64_t i = 0; i < count; ++i)
      page_data_.push_back(static_cast<char*>(pages) + i * layout.page_bytes);
  }
  size_bytes_ = layout.size_bytes();
  return absl::OkStatus();
}

absl::Status DeviceAdapter::Copy(const AdapterImage& image, Backend& backend,
                                 Stream& stream) const {
  for (int64_t i = 0; i < image.layout().num_pages(); ++i)
    RETURN_IF_ERROR(backend.Copy(page(i), image.page(i), image.layout().used[i], stream));
  return absl::OkStatus();
}

void DeviceAdapter::PlaceModules(const AdapterImage& image) {
  const AdapterLayout& layout = image.layout();
  const auto at = [&](int64_t offset) {
    return page(offset / layout.page_bytes) + offset % layout.page_bytes;
  };
  for (const AdapterLayout::Module& from : layout.modules) {
    const size_t index = from.id.index();
    if (by_index_.size() <= index) by_index_.resize(index + 1, -1);
    by_index_[index] = static_cast<int32_t>(modules_.size());
    max_rank_ = std::max(max_rank_, from.rank);
    Module module;
    module.id = from.id;
    module.scaling = from.scaling;
    module.rank = from.rank;
    module.a = {at(from.a), layout.dtype, {from.rank, from.in_features}};
    module.b = {at(from.b), layout.dtype, {from.out_features, from.rank}};
    modules_.push_back(module);
  }
}

const DeviceAdapter::Module* DeviceAdapter::Find(ModuleId id) const {
  const size_t index = id.index();
  if (index >= by_index_.size() || by_index_[index] < 0) return nullptr;
  return &modules_[by_index_[index]];
}

}  // namespace lorad
