#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "engine/io/safetensors_header.h"
#include "engine/io/utf8.h"
#include "nlohmann/json.hpp"

namespace lorad {
namespace {

constexpr int64_t kHeaderAlignment = 8;

// The reference writer's order of dtypes, which puts the widest alignment first.
int Rank(DType dtype) {
  switch (dtype) {
    case DType::kU64:
      return 0;
    case DType::kI64:
      return 1;
    case DType::kF64:
      return 2;
    case DType::kF32:
      return 3;
    case DType::kI32:
      return 4;
    case DType::kBF16:
      return 5;
    case DType::kF16:
      return 6;
    case DType::kI8:
      return 7;
    case DType::kU8:
      return 8;
  }
  return 9;
}

absl::Status CheckEntry(const SafetensorsEntry& entry) {
  const auto invalid = [&](auto... what) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", entry.name, "\" ", what...));
  };
  if (entry.name.empty() || entry.name == "__metadata__") return invalid("has a reserved name");
  if (entry.name.size() > kMaxSafetensorsNameBytes ||
      FirstInvalidUtf8(entry.name) != entry.name.size() ||
      std::any_of(entry.name.begin(), entry.name.end(), [](unsigned char c) { return c < 0x20; }))
    return invalid("has a name that no reader would take");
  if (entry.shape.size() > kMaxSafetensorsRank) return invalid("has too many dimensions");
  ASSIGN_OR_RETURN(const int64_t bytes, SafetensorsBytes(entry.dtype, entry.shape));
  if (bytes != entry.size_bytes)
    return invalid("has ", entry.size_bytes, " bytes, but ", Name(entry.dtype), " ",
                   entry.ShapeString(), " needs ", bytes);
  if (bytes > 0 && entry.data == nullptr) return invalid("has no data");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<const SafetensorsEntry*>> InFileOrder(
    const std::vector<SafetensorsEntry>& tensors) {
  std::vector<const SafetensorsEntry*> order;
  for (const SafetensorsEntry& entry : tensors) {
    RETURN_IF_ERROR(CheckEntry(entry));
    order.push_back(&entry);
  }
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->name < b->name; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->name == order[i - 1]->name)
      return absl::InvalidArgumentError(
          absl::StrCat("tensor \"", order[i]->name, "\" is given twice"));
  }
  std::stable_sort(order.begin(), order.end(),
                   [](auto* a, auto* b) { return Rank(a->dtype) < Rank(b->dtype); });
  return order;
}

}  // namespace

absl::StatusOr<std::string> SerializeSafetensors(
    const std::vector<SafetensorsEntry>& tensors,
    const std::map<std::string, std::string>& metadata) {
  ASSIGN_OR_RETURN(const std::vector<const SafetensorsEntry*> order, InFileOrder(tensors));
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  for (const auto& [key, value] : metadata) {
    if (FirstInvalidUtf8(key) != key.size() || FirstInvalidUtf8(value) != value.size())
      return absl::InvalidArgumentError(absl::StrCat("metadata key \"", key, "\": invalid UTF-8"));
    header["__metadata__"][key] = value;
  }
  int64_t offset = 0;
  std::string json = metadata.empty() ? "{" : header.dump().substr(0, header.dump().size() - 1);
  for (const SafetensorsEntry* entry : order) {
    // Appended as text: an ordered_json object finds a key by searching all the others.
    const nlohmann::ordered_json fields = {{"dtype", Name(entry->dtype)},
                                           {"shape", entry->shape},
                                           {"data_offsets", {offset, offset + entry->size_bytes}}};
    absl::StrAppend(&json, json.size() > 1 ? "," : "", nlohmann::json(entry->name).dump(), ":",
                    fields.dump());
    offset += entry->size_bytes;
  }
  json += "}";
  json.resize(static_cast<size_t>(RoundUp(static_cast<int64_t>(json.size()), kHeaderAlignment)),
              ' ');

  std::string bytes;
  bytes.reserve(8 + json.size() + static_cast<size_t>(offset));
  for (int shift = 0; shift < 64; shift += 8)
    bytes.push_back(static_cast<char>((static_cast<uint64_t>(json.size()) >> shift) & 0xFF));
  bytes += json;
  for (const SafetensorsEntry* entry : order)
    bytes.append(static_cast<const char*>(entry->data), static_cast<size_t>(entry->size_bytes));
  return bytes;
}

absl::Status WriteSafetensors(const std::string& path, const std::vector<SafetensorsEntry>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  ASSIGN_OR_RETURN(const std::string bytes, SerializeSafetensors(tensors, metadata));
  return WriteFileAtomically(path, bytes);
}

}  // namespace lorad
