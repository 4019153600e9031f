// The weights of a Hugging Face model directory: one safetensors file, or shards with an index.
#ifndef LORAD_ENGINE_IO_SAFETENSORS_CHECKPOINT_H_
#define LORAD_ENGINE_IO_SAFETENSORS_CHECKPOINT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/core/tensor_view.h"
#include "engine/io/safetensors.h"

namespace lorad {

// Move-only. Entries live as long as the object. Thread-safe for reading.
class SafetensorsCheckpoint {
 public:
  // Opens `directory`/model.safetensors, else the shards that model.safetensors.index.json names
  // (the order of transformers). kNotFound names the path looked for, or the missing shard.
  // kInvalidArgument: a shard name that leaves the directory, a tensor that the index puts into a
  // shard that lacks it, a tensor of a shard that the index does not put there (it would be
  // dropped silently). The index's `metadata` is not used. Errors of SafetensorsFile::Open.
  static absl::StatusOr<SafetensorsCheckpoint> Open(const std::string& directory);

  // Sorted by name.
  const std::vector<const SafetensorsEntry*>& entries() const { return entries_; }
  // Null when no file has such a tensor.
  const SafetensorsEntry* Find(std::string_view name) const;
  // kNotFound, naming tensor and directory, when absent; kInvalidArgument when the rank is over
  // kMaxDims.
  absl::StatusOr<ConstTensorView> View(std::string_view name) const;

  const std::vector<SafetensorsFile>& files() const { return files_; }
  int64_t total_bytes() const { return total_bytes_; }

 private:
  std::string directory_;
  std::vector<SafetensorsFile> files_;
  std::vector<const SafetensorsEntry*> entries_;  // into files_
  int64_t total_bytes_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_SAFETENSORS_CHECKPOINT_H_
