// The JSON header of a safetensors file, checked against the format. Internal to engine/io.
#ifndef LORAD_ENGINE_IO_SAFETENSORS_HEADER_H_
#define LORAD_ENGINE_IO_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/core/dtype.h"

namespace lorad {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the reference reader's limit
inline constexpr size_t kMaxSafetensorsRank = 32;
inline constexpr size_t kMaxSafetensorsNameBytes = 4096;

struct SafetensorsHeader {
  struct Tensor {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    int64_t begin, end;  // within the data, which starts after the header
  };
  std::vector<Tensor> tensors;  // by (begin, end)
  std::map<std::string, std::string> metadata;
};

// Checks all that SafetensorsFile::Open promises except the alignment of the data. `json` is the
// header's text, `data_bytes` the size of what follows it in the file, `path` goes into errors.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, int64_t data_bytes,
                                                         const std::string& path);

// Bytes of a tensor; kInvalidArgument, without naming the tensor, when a dimension is negative or
// the product does not fit 63 bits.
absl::StatusOr<int64_t> SafetensorsBytes(DType dtype, const std::vector<int64_t>& shape);

// "[3, 128]"; the first few dimensions of many.
std::string DimsToString(const std::vector<int64_t>& dims);

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_SAFETENSORS_HEADER_H_
