#include "engine/train/trainable_adapter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/check.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/quant/code_book.h"

namespace lorad {
namespace {

TensorView Slice(const TensorView& flat, int64_t offset, const Shape& shape) {
  char* data = static_cast<char*>(flat.data);
  return {data == nullptr ? nullptr : data + offset * SizeOf(flat.dtype), flat.dtype, shape};
}

// The moments of `tensor`, like its parameters or in 8 bits.
absl::Status LayOutMoments(bool eight_bit, Arena& arena, AdamWTensor& tensor) {
  const int64_t elements = tensor.param.num_elements();
  const DType dtype = eight_bit ? DType::kU8 : tensor.param.dtype;
  ASSIGN_OR_RETURN(tensor.m, arena.Allocate(dtype, {elements}));
  ASSIGN_OR_RETURN(tensor.v, arena.Allocate(dtype, {elements}));
  if (!eight_bit) return absl::OkStatus();
  const int64_t blocks = CeilDiv(elements, kMomentBlock);
  ASSIGN_OR_RETURN(tensor.m_scales, arena.Allocate(DType::kF32, {blocks}));
  ASSIGN_OR_RETURN(tensor.v_scales, arena.Allocate(DType::kF32, {blocks}));
  return absl::OkStatus();
}

// Either side may be the device's. Blocks.
absl::Status CopyNow(void* to, const void* from, int64_t bytes, Backend& backend, Stream& stream) {
  RETURN_IF_ERROR(backend.Copy(to, from, bytes, stream));
  return stream.Synchronize();
}

}  // namespace

absl::StatusOr<TrainableAdapter> TrainableAdapter::Create(const HostAdapter& adapter,
                                                          Backend& backend, Arena& arena,
                                                          OptimizerKind kind) {
  TrainableAdapter result(backend);
  // Matrices start where a tensor of its own would, so any vector load fits, and where a block of
  // 8-bit moments does; the gaps stay zero.
  const DType dtype = backend.adapter_dtype();
  const int64_t align = IsEightBit(kind) ? kMomentBlock : Arena::kAlignment / SizeOf(dtype);
  int64_t elements = 0;
  for (const AdapterModule& module : adapter.modules) {
    for (const std::vector<float>* matrix : {&module.a, &module.b}) {
      result.offsets_.push_back(elements);
      elements += RoundUp(static_cast<int64_t>(matrix->size()), align);
    }
  }
  const int64_t used = arena.used_bytes();
  TensorView& params = result.tensor_.param;
  ASSIGN_OR_RETURN(params, arena.Allocate(dtype, {elements}));
  ASSIGN_OR_RETURN(result.grads_, arena.Allocate(dtype, {elements}));
  result.tensor_.grad = result.grads_;
  RETURN_IF_ERROR(result.AllocateMoments(kind, arena));
  result.device_bytes_ = arena.used_bytes() - used;
  for (size_t i = 0; i < adapter.modules.size(); ++i) {
    const AdapterModule& module = adapter.modules[i];
    const int64_t rank = module.rank;
    const Shape a = {rank, static_cast<int64_t>(module.a.size()) / rank};
    const Shape b = {static_cast<int64_t>(module.b.size()) / rank, rank};
    const int64_t at_a = result.offsets_[2 * i], at_b = result.offsets_[2 * i + 1];
    result.modules_.push_back({.id = module.id,
                               .scaling = module.scaling,
                               .a = Slice(params, at_a, a),
                               .da = Slice(result.grads_, at_a, a),
                               .b = Slice(params, at_b, b),
                               .db = Slice(result.grads_, at_b, b)});
  }
  return result;
}

absl::Status TrainableAdapter::AllocateMoments(OptimizerKind kind, Arena& arena) {
  const bool eight_bit = IsEightBit(kind);
  if (eight_bit) {
    const Shape codes = {static_cast<int64_t>(DynamicMap().size())};
    ASSIGN_OR_RETURN(m_code_, arena.Allocate(DType::kF32, codes));
    ASSIGN_OR_RETURN(v_code_, arena.Allocate(DType::kF32, codes));
  }
  if (!IsPaged(kind)) return LayOutMoments(eight_bit, arena, tensor_);
  Arena measuring = Arena::Measuring("paged moments");
  RETURN_IF_ERROR(LayOutMoments(eight_bit, measuring, tensor_));
  pinned_bytes_ = measuring.peak_bytes();
  if (arena.measuring()) return absl::OkStatus();
  ASSIGN_OR_RETURN(pinned_, backend_->AllocatePinned(pinned_bytes_));
  Arena block("paged moments", pinned_.data(), pinned_bytes_);
  return LayOutMoments(eight_bit, block, tensor_);
}

absl::Status TrainableAdapter::SetWeights(const HostAdapter& adapter, Stream& stream) {
  LORAD_CHECK(adapter.modules.size() == modules_.size());
  std::vector<float> flat(params().num_elements(), 0.0f);
  for (size_t i = 0; i < modules_.size(); ++i) {
    const AdapterModule& module = adapter.modules[i];
    LORAD_CHECK(module.id == modules_[i].id &&
                static_cast<int64_t>(module.a.size()) == modules_[i].a.num_elements() &&
                static_cast<int64_t>(module.b.size()) == modules_[i].b.num_elements());
    std::copy(module.a.begin(), module.a.end(), flat.begin() + offsets_[2 * i]);
    std::copy(module.b.begin(), module.b.end(), flat.begin() + offsets_[2 * i + 1]);
  }
  for (const TensorView& other :
       {grads_, tensor_.m, tensor_.v, tensor_.m_scales, tensor_.v_scales}) {
    if (!other.empty()) RETURN_IF_ERROR(backend_->Zero(other.data, other.size_bytes(), stream));
  }
  if (!m_code_.empty()) {
    RETURN_IF_ERROR(
        backend_->Copy(m_code_.data, DynamicMap().data(), m_code_.size_bytes(), stream));
    RETURN_IF_ERROR(
        backend_->Copy(v_code_.data, UnsignedDynamicMap().data(), v_code_.size_bytes(), stream));
  }
  return FromHost(flat, params(), stream);
}

absl::Status TrainableAdapter::GetWeights(HostAdapter& adapter, Stream& stream) const {
  LORAD_CHECK(adapter.modules.size() == modules_.size());
  ASSIGN_OR_RETURN(const std::vector<float> flat, ToHost(params(), stream));
  for (size_t i = 0; i < modules_.size(); ++i) {
    AdapterModule& module = adapter.modules[i];
    const auto a = flat.begin() + offsets_[2 * i], b = flat.begin() + offsets_[2 * i + 1];
    module.a.assign(a, a + modules_[i].a.num_elements());
    module.b.assign(b, b + modules_[i].b.num_elements());
  }
  return absl::OkStatus();
}

absl::Status TrainableAdapter::SetMoments(const HostMoments& moments, Stream& stream) {
  RETURN_IF_ERROR(SetMoment(moments.m, tensor_.m, tensor_.m_scales, stream));
  return SetMoment(moments.v, tensor_.v, tensor_.v_scales, stream);
}

absl::StatusOr<HostMoments> TrainableAdapter::GetMoments(Stream& stream) const {
  HostMoments moments;
  ASSIGN_OR_RETURN(moments.m, GetMoment(tensor_.m, tensor_.m_scales, stream));
  ASSIGN_OR_RETURN(moments.v, GetMoment(tensor_.v, tensor_.v_scales, stream));
  return moments;
}

absl::Status TrainableAdapter::SetMoment(const HostMoment& from, TensorView to,
                                         TensorView to_scales, Stream& stream) {
  const bool eight_bit = to.dtype == DType::kU8;
  const size_t elements = to.num_elements();
  const size_t values = eight_bit ? 0 : elements, codes = eight_bit ? elements : 0,
               scales = eight_bit ? to_scales.num_elements() : 0;
  if (from.values.size() != values || from.codes.size() != codes || from.scales.size() != scales) {
    return absl::FailedPreconditionError(
        absl::StrCat("saved moments have ", from.values.size(), " fp32 values, ", from.codes.size(),
                     " codes and ", from.scales.size(), " scales; this job's have ", values, ", ",
                     codes, " and ", scales));
  }
  if (!eight_bit) return FromHost(from.values, to, stream);
  RETURN_IF_ERROR(CopyNow(to.data, from.codes.data(), to.size_bytes(), *backend_, stream));
  return CopyNow(to_scales.data, from.scales.data(), to_scales.size_bytes(), *backend_, stream);
}

absl::StatusOr<HostMoment> TrainableAdapter::GetMoment(TensorView from, TensorView from_scales,
                                                       Stream& stream) const {
  HostMoment moment;
  if (from.dtype != DType::kU8) {
    ASSIGN_OR_RETURN(moment.values, ToHost(from, stream));
    return moment;
  }
  moment.codes.resize(from.num_elements());
  moment.scales.resize(from_scales.num_elements());
  RETURN_IF_ERROR(CopyNow(moment.codes.data(), from.data, from.size_bytes(), *backend_, stream));
  RETURN_IF_ERROR(
      CopyNow(moment.scales.data(), from_scales.data, from_scales.size_bytes(), *backend_, stream));
  return moment;
}

absl::StatusOr<std::vector<float>> TrainableAdapter::ToHost(TensorView flat, Stream& stream) const {
  std::vector<float> values(flat.num_elements());
  if (flat.dtype == DType::kF32) {
    RETURN_IF_ERROR(CopyNow(values.data(), flat.data, flat.size_bytes(), *backend_, stream));
    return values;
  }
  LORAD_CHECK(flat.dtype == DType::kF64);
  std::vector<double> wide(values.size());
  RETURN_IF_ERROR(CopyNow(wide.data(), flat.data, flat.size_bytes(), *backend_, stream));
  std::copy(wide.begin(), wide.end(), values.begin());
  return values;
}

absl::Status TrainableAdapter::FromHost(const std::vector<float>& values, TensorView flat,
                                        Stream& stream) {
  LORAD_CHECK(static_cast<int64_t>(values.size()) == flat.num_elements());
  if (flat.dtype == DType::kF32)
    return CopyNow(flat.data, values.data(), flat.size_bytes(), *backend_, stream);
  LORAD_CHECK(flat.dtype == DType::kF64);
  const std::vector<double> wide(values.begin(), values.end());
  return CopyNow(flat.data, wide.data(), flat.size_bytes(), *backend_, stream);
}

}  // namespace lorad
