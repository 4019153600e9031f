// Element types of tensors. No Abseil, no CUDA: shared by .cc and .cu files.
#ifndef LORAD_ENGINE_CORE_DTYPE_H_
#define LORAD_ENGINE_CORE_DTYPE_H_

#include <cstdint>

namespace lorad {

enum class DType : uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kU64, kU8, kI8 };

// Bytes of one element.
constexpr int64_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
    case DType::kU64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kU8:
    case DType::kI8:
      return 1;
  }
  return 0;
}

// The name that safetensors uses: "F32", "BF16", ...
constexpr const char* Name(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kU64:
      return "U64";
    case DType::kU8:
      return "U8";
    case DType::kI8:
      return "I8";
  }
  return "?";
}

// 16-bit storage types; arithmetic is done in float (engine/core/float16.h converts).
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

template <typename T>
struct DTypeOfImpl;
template <>
struct DTypeOfImpl<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOfImpl<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOfImpl<Float16> {
  static constexpr DType value = DType::kF16;
};
template <>
struct DTypeOfImpl<BFloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOfImpl<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOfImpl<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOfImpl<uint64_t> {
  static constexpr DType value = DType::kU64;
};
template <>
struct DTypeOfImpl<uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOfImpl<int8_t> {
  static constexpr DType value = DType::kI8;
};
// The dtype that stores a T.
template <typename T>
constexpr DType DTypeOf = DTypeOfImpl<T>::value;

}  // namespace lorad

#endif  // LORAD_ENGINE_CORE_DTYPE_H_
