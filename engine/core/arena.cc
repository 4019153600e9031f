#include "engine/core/arena.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/checked_math.h"

namespace lorad {

Arena Arena::Measuring(std::string name) {
  return Arena(std::move(name), nullptr, std::numeric_limits<int64_t>::max());
}

absl::StatusOr<TensorView> Arena::Allocate(DType dtype, const Shape& shape) {
  const int64_t bytes = RoundUp(shape.num_elements() * SizeOf(dtype), kAlignment);
  if (bytes > capacity_ - used_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(name_, " memory: ", shape.ToString(), " ", Name(dtype), " needs ", bytes,
                     " bytes, ", capacity_ - used_, " of ", capacity_, " are free"));
  }
  const TensorView view{measuring() ? nullptr : base_ + used_, dtype, shape};
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return view;
}

}  // namespace lorad
