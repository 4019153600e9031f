#include "engine/io/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/safetensors_header.h"
#include "engine/io/text.h"

namespace lorad {
namespace {

constexpr int64_t kLengthBytes = 8;

uint64_t LittleEndian64(std::string_view bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = (value << 8) | static_cast<uint8_t>(bytes[i]);
  return value;
}

// The header's length, checked against the file.
absl::StatusOr<int64_t> HeaderBytes(std::string_view file, const std::string& path) {
  const int64_t size = static_cast<int64_t>(file.size());
  if (size < kLengthBytes)
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": ", size, " bytes are too few for a safetensors file, which starts with 8"));
  const uint64_t length = LittleEndian64(file);
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes))
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": header length ", length, " exceeds the limit of ",
                     kMaxSafetensorsHeaderBytes, "; this is not a safetensors file"));
  if (static_cast<int64_t>(length) > size - kLengthBytes)
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": header length ", length, " exceeds the ", size - kLengthBytes,
        " bytes that the file holds; the file is truncated: copy or download it again"));
  return static_cast<int64_t>(length);
}

absl::StatusOr<ConstTensorView> ViewOf(const SafetensorsEntry* entry, std::string_view name,
                                       const std::string& path) {
  if (entry == nullptr)
    return absl::NotFoundError(absl::StrCat(path, ": has no tensor \"", AbslView(name), "\""));
  return entry->View();
}

}  // namespace

SafetensorsEntry::SafetensorsEntry(std::string name, const ConstTensorView& view)
    : name(std::move(name)), dtype(view.dtype), data(view.data), size_bytes(view.size_bytes()) {
  for (int i = 0; i < view.shape.num_dims(); ++i) shape.push_back(view.shape[i]);
}

absl::StatusOr<ConstTensorView> SafetensorsEntry::View() const {
  switch (shape.size()) {
    case 0:
      return ConstTensorView(data, dtype, {});
    case 1:
      return ConstTensorView(data, dtype, {shape[0]});
    case 2:
      return ConstTensorView(data, dtype, {shape[0], shape[1]});
    case 3:
      return ConstTensorView(data, dtype, {shape[0], shape[1], shape[2]});
    case 4:
      return ConstTensorView(data, dtype, {shape[0], shape[1], shape[2], shape[3]});
  }
  return absl::InvalidArgumentError(absl::StrCat("tensor \"", name, "\" ", ShapeString(), " has ",
                                                 shape.size(), " dimensions, the limit is ",
                                                 kMaxDims));
}

std::string SafetensorsEntry::ShapeString() const { return DimsToString(shape); }

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  SafetensorsFile result;
  ASSIGN_OR_RETURN(result.file_, MmapFile::Open(path));
  const std::string_view file = result.file_.bytes();
  ASSIGN_OR_RETURN(const int64_t header_bytes, HeaderBytes(file, path));
  const std::string_view data = file.substr(static_cast<size_t>(kLengthBytes + header_bytes));
  ASSIGN_OR_RETURN(
      SafetensorsHeader header,
      ParseSafetensorsHeader(file.substr(kLengthBytes, static_cast<size_t>(header_bytes)),
                             static_cast<int64_t>(data.size()), path));
  result.metadata_ = std::move(header.metadata);
  result.entries_.reserve(header.tensors.size());
  for (SafetensorsHeader::Tensor& tensor : header.tensors) {
    SafetensorsEntry entry;
    entry.name = std::move(tensor.name);
    entry.dtype = tensor.dtype;
    entry.shape = std::move(tensor.shape);
    entry.size_bytes = tensor.end - tensor.begin;
    entry.data = data.data() + tensor.begin;
    if (entry.size_bytes > 0 && reinterpret_cast<uintptr_t>(entry.data) % SizeOf(entry.dtype) != 0)
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor \"", entry.name, "\" starts at byte ",
                       kLengthBytes + header_bytes + tensor.begin, ", which is not aligned for ",
                       Name(entry.dtype), "; rewrite the file with a current safetensors package"));
    result.entries_.push_back(std::move(entry));
  }
  std::sort(result.entries_.begin(), result.entries_.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  return result;
}

const SafetensorsEntry* SafetensorsFile::Find(std::string_view name) const {
  const auto found =
      std::lower_bound(entries_.begin(), entries_.end(), name,
                       [](const auto& entry, std::string_view key) { return entry.name < key; });
  return found != entries_.end() && found->name == name ? &*found : nullptr;
}

absl::StatusOr<ConstTensorView> SafetensorsFile::View(std::string_view name) const {
  return ViewOf(Find(name), name, path());
}

}  // namespace lorad
