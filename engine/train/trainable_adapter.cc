#include "engine/train/trainable_adapter.h"

#include <algorithm>
#include <utility>

#include "engine/core/check.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"

namespace lorad {
namespace {

TensorView Slice(const TensorView& flat, int64_t offset, const Shape& shape) {
  char* data = static_cast<char*>(flat.data);
  return {data == nullptr ? nullptr : data + offset * SizeOf(flat.dtype), flat.dtype, shape};
}

}  // namespace

absl::StatusOr<TrainableAdapter> TrainableAdapter::Create(const HostAdapter& adapter,
                                                          Backend& backend, Arena& arena) {
  TrainableAdapter result(backend);
  // Matrices start where a tensor of its own would, so any vector load fits; the gaps stay zero.
  const DType dtype = backend.adapter_dtype();
  const int64_t align = Arena::kAlignment / SizeOf(dtype);
  int64_t elements = 0;
  for (const AdapterModule& module : adapter.modules) {
    for (const std::vector<float>* matrix : {&module.a, &module.b}) {
      result.offsets_.push_back(elements);
      elements += RoundUp(static_cast<int64_t>(matrix->size()), align);
    }
  }
  for (TensorView* flat : {&result.params_, &result.grads_, &result.m_, &result.v_}) {
    ASSIGN_OR_RETURN(*flat, arena.Allocate(dtype, {elements}));
  }
  for (size_t i = 0; i < adapter.modules.size(); ++i) {
    const AdapterModule& module = adapter.modules[i];
    const int64_t rank = module.rank;
    const Shape a = {rank, static_cast<int64_t>(module.a.size()) / rank};
    const Shape b = {static_cast<int64_t>(module.b.size()) / rank, rank};
    const int64_t at_a = result.offsets_[2 * i], at_b = result.offsets_[2 * i + 1];
    result.modules_.push_back({.id = module.id,
                               .scaling = module.scaling,
                               .a = Slice(result.params_, at_a, a),
                               .da = Slice(result.grads_, at_a, a),
                               .b = Slice(result.params_, at_b, b),
                               .db = Slice(result.grads_, at_b, b)});
  }
  return result;
}

absl::Status TrainableAdapter::SetWeights(const HostAdapter& adapter, Stream& stream) {
  LORAD_CHECK(adapter.modules.size() == modules_.size());
  std::vector<float> flat(params_.num_elements(), 0.0f);
  for (size_t i = 0; i < modules_.size(); ++i) {
    const AdapterModule& module = adapter.modules[i];
    LORAD_CHECK(module.id == modules_[i].id &&
                static_cast<int64_t>(module.a.size()) == modules_[i].a.num_elements() &&
                static_cast<int64_t>(module.b.size()) == modules_[i].b.num_elements());
    std::copy(module.a.begin(), module.a.end(), flat.begin() + offsets_[2 * i]);
    std::copy(module.b.begin(), module.b.end(), flat.begin() + offsets_[2 * i + 1]);
  }
  for (const TensorView& other : {grads_, m_, v_})
    RETURN_IF_ERROR(backend_->Zero(other.data, other.size_bytes(), stream));
  return FromHost(flat, params_, stream);
}

absl::Status TrainableAdapter::GetWeights(HostAdapter& adapter, Stream& stream) const {
  LORAD_CHECK(adapter.modules.size() == modules_.size());
  ASSIGN_OR_RETURN(const std::vector<float> flat, ToHost(params_, stream));
  for (size_t i = 0; i < modules_.size(); ++i) {
    AdapterModule& module = adapter.modules[i];
    const auto a = flat.begin() + offsets_[2 * i], b = flat.begin() + offsets_[2 * i + 1];
    module.a.assign(a, a + modules_[i].a.num_elements());
    module.b.assign(b, b + modules_[i].b.num_elements());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> TrainableAdapter::ToHost(TensorView flat, Stream& stream) const {
  std::vector<float> values(flat.num_elements());
  if (flat.dtype == DType::kF32) {
    RETURN_IF_ERROR(backend_->Copy(values.data(), flat.data, flat.size_bytes(), stream));
    RETURN_IF_ERROR(stream.Synchronize());
    return values;
  }
  LORAD_CHECK(flat.dtype == DType::kF64);
  std::vector<double> wide(values.size());
  RETURN_IF_ERROR(backend_->Copy(wide.data(), flat.data, flat.size_bytes(), stream));
  RETURN_IF_ERROR(stream.Synchronize());
  std::copy(wide.begin(), wide.end(), values.begin());
  return values;
}

absl::Status TrainableAdapter::FromHost(const std::vector<float>& values, TensorView flat,
                                        Stream& stream) {
  LORAD_CHECK(static_cast<int64_t>(values.size()) == flat.num_elements());
  if (flat.dtype == DType::kF32) {
    RETURN_IF_ERROR(backend_->Copy(flat.data, values.data(), flat.size_bytes(), stream));
    return stream.Synchronize();
  }
  LORAD_CHECK(flat.dtype == DType::kF64);
  const std::vector<double> wide(values.begin(), values.end());
  RETURN_IF_ERROR(backend_->Copy(flat.data, wide.data(), flat.size_bytes(), stream));
  return stream.Synchronize();
}

}  // namespace lorad
