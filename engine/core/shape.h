// Dimensions of a dense row-major tensor, at most four. No Abseil, no CUDA.
#ifndef LORAD_ENGINE_CORE_SHAPE_H_
#define LORAD_ENGINE_CORE_SHAPE_H_

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace lorad {

inline constexpr int kMaxDims = 4;

class Shape {
 public:
  Shape() = default;
  // REQUIRES: at most kMaxDims dimensions, each >= 0.
  Shape(std::initializer_list<int64_t> dims) {
    for (int64_t dim : dims) dims_[num_dims_++] = dim;
  }

  int num_dims() const { return num_dims_; }
  int64_t operator[](int index) const { return dims_[index]; }
  // Product of the dimensions; 1 for a scalar (no dimensions).
  int64_t num_elements() const {
    int64_t count = 1;
    for (int i = 0; i < num_dims_; ++i) count *= dims_[i];
    return count;
  }
  bool operator==(const Shape& other) const {
    if (num_dims_ != other.num_dims_) return false;
    for (int i = 0; i < num_dims_; ++i)
      if (dims_[i] != other.dims_[i]) return false;
    return true;
  }
  // "[3, 128]"
  std::string ToString() const {
    std::string text = "[";
    for (int i = 0; i < num_dims_; ++i) text += (i ? ", " : "") + std::to_string(dims_[i]);
    return text + "]";
  }

 private:
  std::array<int64_t, kMaxDims> dims_{};
  int num_dims_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_CORE_SHAPE_H_
