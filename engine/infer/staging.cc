#include "engine/infer/staging.h"

#include <cstring>
#include <utility>

#include "engine/core/check.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kMemberAlignment = 16;

int64_t Bytes(const BlockMember& member) {
  return RoundUp(member.shape.num_elements() * SizeOf(member.dtype), kMemberAlignment);
}

}  // namespace

absl::StatusOr<TensorView> AllocateBlock(absl::Span<const BlockMember> members, Arena& arena) {
  int64_t bytes = 0;
  for (const BlockMember& member : members) bytes += Bytes(member);
  ASSIGN_OR_RETURN(const TensorView block, arena.Allocate(DType::kU8, Shape{bytes}));
  auto* place = static_cast<char*>(block.data);
  for (const BlockMember& member : members) {
    *member.view = {place, member.dtype, member.shape};
    if (place != nullptr) place += Bytes(member);
  }
  return block;
}

absl::StatusOr<Staging> Staging::Create(const StagingBytes& bytes, Backend& backend) {
  ASSIGN_OR_RETURN(DeviceBuffer inputs, backend.AllocatePinned(bytes.inputs));
  ASSIGN_OR_RETURN(DeviceBuffer outputs, backend.AllocatePinned(bytes.outputs));
  return Staging(backend, std::move(inputs), std::move(outputs));
}

void Staging::Put(const TensorView& block, const TensorView& member, const void* data) {
  const int64_t offset = static_cast<char*>(member.data) - static_cast<char*>(block.data);
  LORAD_CHECK(0 <= offset && offset + member.size_bytes() <= inputs_.size_bytes());
  std::memcpy(static_cast<char*>(inputs_.data()) + offset, data,
              static_cast<size_t>(member.size_bytes()));
}

absl::Status Staging::Upload(const TensorView& block, Stream& stream) {
  LORAD_CHECK(block.size_bytes() <= inputs_.size_bytes());
  return backend_->Copy(block.data, inputs_.data(), block.size_bytes(), stream);
}

void* Staging::PlaceFor(const ConstTensorView& tensor) {
  const int64_t bytes = tensor.size_bytes();
  LORAD_CHECK(tensor.dense() && placed_ + bytes <= outputs_.size_bytes());
  char* const place = static_cast<char*>(outputs_.data()) + placed_;
  placed_ += RoundUp(bytes, kMemberAlignment);
  return place;
}

absl::Status Staging::Fetch(const ConstTensorView& tensor, void* place, Stream& stream) {
  return backend_->Copy(place, tensor.data, tensor.size_bytes(), stream);
}

}  // namespace lorad
