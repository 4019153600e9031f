#include "engine/lora/adapter.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/arena.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/io/sha256.h"

namespace lorad {
namespace {

std::string_view Bytes(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

int64_t InFeatures(const AdapterModule& module) {
  return static_cast<int64_t>(module.a.size()) / module.rank;
}
int64_t OutFeatures(const AdapterModule& module) {
  return static_cast<int64_t>(module.b.size()) / module.rank;
}

// Lays out A and B of every module. Over a measuring arena the views are null.
absl::StatusOr<std::vector<DeviceAdapter::Module>> Place(const HostAdapter& adapter, DType dtype,
                                                         Arena& arena) {
  std::vector<DeviceAdapter::Module> modules;
  for (const AdapterModule& host : adapter.modules) {
    DeviceAdapter::Module module;
    module.id = host.id;
    module.scaling = host.scaling;
    module.rank = host.rank;
    ASSIGN_OR_RETURN(module.a, arena.Allocate(dtype, {host.rank, InFeatures(host)}));
    ASSIGN_OR_RETURN(module.b, arena.Allocate(dtype, {OutFeatures(host), host.rank}));
    modules.push_back(module);
  }
  return modules;
}

// Writes `values` as the view's dtype into `block`, the host image of the buffer at `base`.
void Fill(const std::vector<float>& values, const ConstTensorView& view, const void* base,
          std::vector<char>& block) {
  char* to = block.data() + (static_cast<const char*>(view.data) - static_cast<const char*>(base));
  if (view.dtype == DType::kF64) {
    std::copy(values.begin(), values.end(), reinterpret_cast<double*>(to));
  } else {
    LORAD_CHECK(view.dtype == DType::kF32);
    std::memcpy(to, values.data(), values.size() * sizeof(float));
  }
}

}  // namespace

int64_t HostAdapter::num_parameters() const {
  int64_t count = 0;
  for (const AdapterModule& module : modules)
    count += static_cast<int64_t>(module.a.size() + module.b.size());
  return count;
}

std::string AdapterDigest(const HostAdapter& adapter) {
  Sha256 sha256;
  sha256.Update("lorad adapter 1\n");
  for (const AdapterModule& module : adapter.modules) {
    // The scaling by its bits: what reaches the arithmetic, however r, alpha and rsLoRA gave it.
    sha256.Update(absl::StrCat(ModulePath(module.id), " ", module.rank, " ", InFeatures(module),
                               " ", OutFeatures(module), " ",
                               std::bit_cast<uint32_t>(module.scaling), "\n"));
    sha256.Update(Bytes(module.a));
    sha256.Update(Bytes(module.b));
  }
  return sha256.HexDigest();
}

int64_t DeviceAdapterBytes(const HostAdapter& adapter, const Backend& backend) {
  Arena arena = Arena::Measuring("adapters");
  LORAD_CHECK(Place(adapter, backend.adapter_dtype(), arena).ok());
  return arena.peak_bytes();
}

absl::StatusOr<std::shared_ptr<const DeviceAdapter>> DeviceAdapter::Create(
    const HostAdapter& adapter, std::string id, Backend& backend, Stream& stream) {
  std::shared_ptr<DeviceAdapter> device(new DeviceAdapter);
  device->id_ = std::move(id);
  const int64_t bytes = DeviceAdapterBytes(adapter, backend);
  ASSIGN_OR_RETURN(device->buffer_, backend.allocator().Allocate(bytes, MemoryTag::kAdapters));
  const void* base = device->buffer_.data();
  Arena arena("adapters", device->buffer_.data(), bytes);
  ASSIGN_OR_RETURN(device->modules_, Place(adapter, backend.adapter_dtype(), arena));
  std::vector<char> block(bytes);
  for (size_t i = 0; i < adapter.modules.size(); ++i) {
    const Module& module = device->modules_[i];
    Fill(adapter.modules[i].a, module.a, base, block);
    Fill(adapter.modules[i].b, module.b, base, block);
    device->max_rank_ = std::max(device->max_rank_, module.rank);
    const size_t index = module.id.index();
    if (device->by_index_.size() <= index) device->by_index_.resize(index + 1, -1);
    device->by_index_[index] = static_cast<int32_t>(i);
  }
  RETURN_IF_ERROR(backend.Copy(device->buffer_.data(), block.data(), bytes, stream));
  RETURN_IF_ERROR(stream.Synchronize());  // `block` goes away
  return std::shared_ptr<const DeviceAdapter>(std::move(device));
}

const DeviceAdapter::Module* DeviceAdapter::Find(ModuleId id) const {
  const size_t index = id.index();
  if (index >= by_index_.size() || by_index_[index] < 0) return nullptr;
  return &modules_[by_index_[index]];
}

}  // namespace lorad
