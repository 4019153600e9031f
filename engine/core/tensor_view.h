// Non-owning views of dense row-major tensors with a run-time dtype. Passed by value.
// No Abseil, no CUDA: shared by .cc and .cu files.
#ifndef LORAD_ENGINE_CORE_TENSOR_VIEW_H_
#define LORAD_ENGINE_CORE_TENSOR_VIEW_H_

#include <cstdint>

#include "engine/core/check.h"
#include "engine/core/dtype.h"
#include "engine/core/shape.h"

namespace lorad {

// Memory is the device's that the view was made for, host memory on the CPU backend.
struct TensorView {
  void* data = nullptr;  // Not owned.
  DType dtype = DType::kF32;
  Shape shape;

  bool empty() const { return data == nullptr; }
  int64_t num_elements() const { return shape.num_elements(); }
  int64_t size_bytes() const { return num_elements() * SizeOf(dtype); }
  // The typed pointer. REQUIRES: T is the view's dtype.
  template <typename T>
  T* as() const {
    LORAD_CHECK(DTypeOf<T> == dtype);
    return static_cast<T*>(data);
  }
};

struct ConstTensorView {
  const void* data = nullptr;  // Not owned.
  DType dtype = DType::kF32;
  Shape shape;

  ConstTensorView() = default;
  ConstTensorView(const void* data, DType dtype, const Shape& shape)
      : data(data), dtype(dtype), shape(shape) {}
  ConstTensorView(const TensorView& view)  // NOLINT: implicit, as T* to const T* is
      : data(view.data), dtype(view.dtype), shape(view.shape) {}

  bool empty() const { return data == nullptr; }
  int64_t num_elements() const { return shape.num_elements(); }
  int64_t size_bytes() const { return num_elements() * SizeOf(dtype); }
  template <typename T>
  const T* as() const {
    LORAD_CHECK(DTypeOf<T> == dtype);
    return static_cast<const T*>(data);
  }
};

// Rows [begin, end) of the outermost dimension.
inline TensorView Rows(const TensorView& view, int64_t begin, int64_t end) {
  const int64_t rows = view.shape[0];
  LORAD_CHECK(0 <= begin && begin <= end && end <= rows);
  const int64_t row_elements = rows == 0 ? 0 : view.num_elements() / rows;
  Shape shape;
  switch (view.shape.num_dims()) {
    case 1:
      shape = {end - begin};
      break;
    case 2:
      shape = {end - begin, view.shape[1]};
      break;
    case 3:
      shape = {end - begin, view.shape[1], view.shape[2]};
      break;
    default:
      shape = {end - begin, view.shape[1], view.shape[2], view.shape[3]};
      break;
  }
  return {static_cast<char*>(view.data) + begin * row_elements * SizeOf(view.dtype), view.dtype,
          shape};
}
inline ConstTensorView Rows(const ConstTensorView& view, int64_t begin, int64_t end) {
  return Rows(TensorView{const_cast<void*>(view.data), view.dtype, view.shape}, begin, end);
}

}  // namespace lorad

#endif  // LORAD_ENGINE_CORE_TENSOR_VIEW_H_
