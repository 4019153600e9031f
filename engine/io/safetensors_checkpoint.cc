#include "engine/io/safetensors_checkpoint.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/io/json_check.h"
#include "engine/io/text.h"

namespace lorad {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

// Shard name -> tensors that the index puts there.
using ShardTensors = std::map<std::string, std::vector<std::string>>;

absl::Status CheckShardName(const std::string& name, const std::string& index) {
  const bool plain = !name.empty() && name != "." && name != ".." &&
                     name.find('/') == std::string::npos && name.find('\\') == std::string::npos;
  if (plain) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(index, ": weight_map names the shard \"",
                                                 ClippedText(name),
                                                 "\", which is not a file name in the directory"));
}

absl::StatusOr<ShardTensors> ReadIndex(const std::string& index) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ReadJsonFile(index));
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (map == json.end() || !map->is_object() || map->empty())
    return absl::InvalidArgumentError(
        absl::StrCat(index, ": needs a \"weight_map\" object of tensor names to shard files"));
  ShardTensors shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string())
      return absl::InvalidArgumentError(absl::StrCat(
          index, ": weight_map, tensor \"", ClippedText(tensor), "\": the shard is not a string"));
    const std::string& name = shard.get_ref<const std::string&>();
    RETURN_IF_ERROR(CheckShardName(name, index));
    shards[name].push_back(tensor);
  }
  return shards;
}

// The index and the shard must agree on which tensors the shard holds.
absl::Status CheckShard(const SafetensorsFile& file, std::vector<std::string> expected,
                        const std::string& index) {
  std::sort(expected.begin(), expected.end());
  for (const std::string& name : expected) {
    if (file.Find(name) == nullptr)
      return absl::InvalidArgumentError(absl::StrCat(index, ": puts the tensor \"",
                                                     ClippedText(name), "\" into ", file.path(),
                                                     ", which has no such tensor"));
  }
  for (const SafetensorsEntry& entry : file.entries()) {
    if (!std::binary_search(expected.begin(), expected.end(), entry.name))
      return absl::InvalidArgumentError(absl::StrCat(
          file.path(), ": holds the tensor \"", ClippedText(entry.name), "\", which ", index,
          " does not place there; add it to weight_map or write the shards anew"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SafetensorsFile>> OpenShards(const std::string& directory,
                                                        const std::string& index) {
  ASSIGN_OR_RETURN(ShardTensors shards, ReadIndex(index));
  std::vector<SafetensorsFile> files;
  for (auto& [shard, tensors] : shards) {
    const std::string path = JoinPath(directory, shard);
    if (!PathExists(path))
      return absl::NotFoundError(
          absl::StrCat(path, ": not found; ", index, " lists it for ", tensors.size(), " tensors"));
    ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
    RETURN_IF_ERROR(CheckShard(file, std::move(tensors), index));
    files.push_back(std::move(file));
  }
  return files;
}

}  // namespace

absl::StatusOr<SafetensorsCheckpoint> SafetensorsCheckpoint::Open(const std::string& directory) {
  SafetensorsCheckpoint checkpoint;
  checkpoint.directory_ = directory;
  const std::string single = JoinPath(directory, kSingleFile);
  const std::string index = JoinPath(directory, kIndexFile);
  if (PathExists(single)) {
    ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(single));
    checkpoint.files_.push_back(std::move(file));
  } else if (PathExists(index)) {
    ASSIGN_OR_RETURN(checkpoint.files_, OpenShards(directory, index));
  } else {
    return absl::NotFoundError(absl::StrCat(single, ": not found, nor is ", kIndexFile,
                                            " beside it; give a model directory that has one"));
  }
  for (const SafetensorsFile& file : checkpoint.files_) {
    for (const SafetensorsEntry& entry : file.entries()) {
      checkpoint.entries_.push_back(&entry);
      checkpoint.total_bytes_ += entry.size_bytes;
    }
  }
  std::sort(checkpoint.entries_.begin(), checkpoint.entries_.end(),
            [](auto* a, auto* b) { return a->name < b->name; });
  return checkpoint;
}

const SafetensorsEntry* SafetensorsCheckpoint::Find(std::string_view name) const {
  const auto found =
      std::lower_bound(entries_.begin(), entries_.end(), name,
                       [](auto* entry, std::string_view key) { return entry->name < key; });
  return found != entries_.end() && (*found)->name == name ? *found : nullptr;
}

absl::StatusOr<ConstTensorView> SafetensorsCheckpoint::View(std::string_view name) const {
  const SafetensorsEntry* entry = Find(name);
  if (entry == nullptr)
    return absl::NotFoundError(
        absl::StrCat(directory_, ": has no tensor \"", AbslView(name), "\""));
  return entry->View();
}

}  // namespace lorad
