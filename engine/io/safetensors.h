// Safetensors files. Format: 8 bytes little-endian header length N, N bytes of JSON
// {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {string: string}},
// then the tensors' bytes, row-major, without holes. Source: github.com/huggingface/safetensors.
#ifndef LORAD_ENGINE_IO_SAFETENSORS_H_
#define LORAD_ENGINE_IO_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/dtype.h"
#include "engine/core/tensor_view.h"
#include "engine/io/mmap_file.h"

namespace lorad {

// One named tensor. Used both for what a file holds and for what is to be written.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // any rank; empty for a scalar
  const void* data =
      nullptr;             // Not owned. Row-major, aligned for dtype. Null only if size_bytes is 0.
  int64_t size_bytes = 0;  // product of shape times the element size

  SafetensorsEntry() = default;
  SafetensorsEntry(std::string name, const ConstTensorView& view);

  // kInvalidArgument when the rank is over kMaxDims.
  absl::StatusOr<ConstTensorView> View() const;
  // "[3, 128]"
  std::string ShapeString() const;
};

// A mapped file whose header has been checked whole: nothing in it can make a read leave the file.
// Move-only; entries and names live as long as the object. Thread-safe for reading.
class SafetensorsFile {
 public:
  // Checks, before anything is allocated by what the header says: header length (at most
  // 100,000,000 and within the file), JSON (starts with '{', valid UTF-8, no key twice, only the
  // known fields), dtype known, dimensions non-negative with a product that does not wrap, size of
  // the range equal to dtype times shape, ranges that begin at 0, leave no hole, do not overlap and
  // end with the file, data aligned for its dtype. kInvalidArgument names the file, the tensor, the
  // value and the bound; kUnimplemented a dtype that is not supported (supported: F64 F32 F16 BF16
  // I64 I32 I8 U64 U8). Errors of MmapFile::Open.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  // Sorted by name.
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  // Null when the file has no such tensor.
  const SafetensorsEntry* Find(std::string_view name) const;
  // kNotFound, naming tensor and file, when absent; kInvalidArgument when the rank is over
  // kMaxDims.
  absl::StatusOr<ConstTensorView> View(std::string_view name) const;

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return file_.path(); }
  // kDataLoss when the file has been rewritten since Open().
  absl::Status CheckUnchanged() const { return file_.CheckUnchanged(); }

 private:
  MmapFile file_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

// The bytes of a file holding `tensors` (in any order) and `metadata`: the same content gives the
// same bytes, and those that the reference writer makes (tensors by descending dtype, then name;
// header padded with spaces to 8 bytes). kInvalidArgument for a repeated, empty or reserved name,
// or a size_bytes that is not that of dtype and shape.
absl::StatusOr<std::string> SerializeSafetensors(
    const std::vector<SafetensorsEntry>& tensors,
    const std::map<std::string, std::string>& metadata);

// SerializeSafetensors, then WriteFileAtomically.
absl::Status WriteSafetensors(const std::string& path, const std::vector<SafetensorsEntry>& tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_SAFETENSORS_H_
