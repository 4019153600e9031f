// Stack allocation inside one block of memory that was taken at start.
#ifndef LORAD_ENGINE_CORE_ARENA_H_
#define LORAD_ENGINE_CORE_ARENA_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/core/tensor_view.h"

namespace lorad {

// Hands out tensors from a block by moving an offset; memory goes back by Release(mark), last in,
// first out. A measuring arena owns no memory and hands out null views: running the same layout
// code over it gives the exact peak bytes before anything is allocated. Thread-compatible.
class Arena {
 public:
  static constexpr int64_t kAlignment =
      256;  // what cudaMalloc guarantees; enough for any vector load

  // `base` is not owned and must be aligned to kAlignment. `name` appears in errors.
  Arena(std::string name, void* base, int64_t capacity_bytes)
      : name_(std::move(name)), base_(static_cast<char*>(base)), capacity_(capacity_bytes) {}
  static Arena Measuring(std::string name);

  // kResourceExhausted, with the needed and the free bytes, when the block is full.
  absl::StatusOr<TensorView> Allocate(DType dtype, const Shape& shape);

  int64_t Mark() const { return used_; }
  void Release(int64_t mark) { used_ = mark; }

  bool measuring() const { return base_ == nullptr; }
  int64_t used_bytes() const { return used_; }
  int64_t peak_bytes() const { return peak_; }
  int64_t capacity_bytes() const { return capacity_; }

 private:
  std::string name_;
  char* base_;
  int64_t capacity_;
  int64_t used_ = 0;
  int64_t peak_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_CORE_ARENA_H_
