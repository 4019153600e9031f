// Non-owning views of row-major tensors with a run-time dtype. Passed by value.
// No Abseil, no CUDA: shared by .cc and .cu files.
#ifndef LORAD_ENGINE_CORE_TENSOR_VIEW_H_
#define LORAD_ENGINE_CORE_TENSOR_VIEW_H_

#include <cstdint>

#include "engine/core/check.h"
#include "engine/core/dtype.h"
#include "engine/core/shape.h"

namespace lorad {

// Elements of one index of the first dimension.
inline int64_t RowElements(const Shape& shape) {
  int64_t count = 1;
  for (int i = 1; i < shape.num_dims(); ++i) count *= shape[i];
  return count;
}

// Memory is the device's that the view was made for, host memory on the CPU backend.
struct TensorView {
  void* data = nullptr;  // Not owned.
  DType dtype = DType::kF32;
  Shape shape;
  // Elements from one index of the first dimension to the next, where rows are slices of a wider
  // buffer; 0: the rows follow one another. The other dimensions are always dense.
  int64_t row_stride = 0;

  bool empty() const { return data == nullptr; }
  int64_t stride() const { return row_stride != 0 ? row_stride : RowElements(shape); }
  bool dense() const { return row_stride == 0 || row_stride == RowElements(shape); }
  int64_t num_elements() const { return shape.num_elements(); }
  // Of the elements, without what lies between rows.
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
  int64_t row_stride = 0;  // as in TensorView

  ConstTensorView() = default;
  ConstTensorView(const void* data, DType dtype, const Shape& shape, int64_t row_stride = 0)
      : data(data), dtype(dtype), shape(shape), row_stride(row_stride) {}
  ConstTensorView(const TensorView& view)  // NOLINT: implicit, as T* to const T* is
      : data(view.data), dtype(view.dtype), shape(view.shape), row_stride(view.row_stride) {}

  bool empty() const { return data == nullptr; }
  int64_t stride() const { return row_stride != 0 ? row_stride : RowElements(shape); }
  bool dense() const { return row_stride == 0 || row_stride == RowElements(shape); }
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
  LORAD_CHECK(0 <= begin && begin <= end && end <= view.shape[0]);
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
  return {static_cast<char*>(view.data) + begin * view.stride() * SizeOf(view.dtype), view.dtype,
          shape, view.row_stride};
}
inline ConstTensorView Rows(const ConstTensorView& view, int64_t begin, int64_t end) {
  return Rows(TensorView{const_cast<void*>(view.data), view.dtype, view.shape, view.row_stride},
              begin, end);
}

// Columns [begin, end) of a matrix. A view without data stays without.
inline TensorView Columns(const TensorView& view, int64_t begin, int64_t end) {
  LORAD_CHECK(view.shape.num_dims() == 2 && 0 <= begin && begin <= end && end <= view.stride());
  char* data = static_cast<char*>(view.data);
  if (data != nullptr) data += begin * SizeOf(view.dtype);
  return {data, view.dtype, {view.shape[0], end - begin}, view.stride()};
}

}  // namespace lorad

#endif  // LORAD_ENGINE_CORE_TENSOR_VIEW_H_
