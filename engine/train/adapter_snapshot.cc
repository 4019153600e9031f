#include "engine/train/adapter_snapshot.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/types/span.h"
#include "engine/core/arena.h"
#include "engine/core/check.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"

namespace lorad {

int64_t AdapterSnapshot::LayOut(const TrainableAdapter& adapter, Pieces& pieces) {
  const AdamWTensor& tensor = adapter.tensor();
  const TensorView parts[kNumParts] = {tensor.param, tensor.m, tensor.v, tensor.m_scales,
                                       tensor.v_scales};
  int64_t bytes = 0;
  for (int part = 0; part < kNumParts; ++part) {
    pieces[part] = {parts[part], bytes};
    // Not empty(): over a measuring arena no tensor has data.
    if (parts[part].shape.num_dims() > 0)
      bytes += RoundUp(parts[part].size_bytes(), Arena::kAlignment);
  }
  return bytes;
}

int64_t AdapterSnapshot::BytesFor(const TrainableAdapter& adapter) {
  Pieces pieces;
  return LayOut(adapter, pieces);
}

absl::StatusOr<std::unique_ptr<AdapterSnapshot>> AdapterSnapshot::Create(
    const TrainableAdapter& adapter, Backend& backend) {
  auto snapshot = absl::WrapUnique(new AdapterSnapshot(adapter, backend));
  const int64_t bytes = LayOut(adapter, snapshot->pieces_);
  ASSIGN_OR_RETURN(snapshot->block_, backend.AllocatePinned(bytes));
  ASSIGN_OR_RETURN(snapshot->copied_, backend.CreateEvent());
  return snapshot;
}

absl::Status AdapterSnapshot::Begin(bool with_moments, Stream& stream) {
  LORAD_CHECK(!copying_);
  for (int part = 0; part < (with_moments ? kNumParts : kM); ++part) {
    const Piece& piece = pieces_[part];
    if (piece.from.empty()) continue;
    RETURN_IF_ERROR(backend_.Copy(static_cast<char*>(block_.data()) + piece.offset, piece.from.data,
                                  piece.from.size_bytes(), stream));
  }
  copying_ = true;
  return copied_->Record(stream);
}

absl::StatusOr<bool> AdapterSnapshot::Done() {
  if (!copying_) return true;
  ASSIGN_OR_RETURN(const bool done, copied_->Done());
  if (!done) return false;
  copying_ = false;
  if (pieces_[kParam].from.dtype != DType::kF32) narrow_ = Floats(kParam);
  return true;
}

std::vector<AdapterModuleView> AdapterSnapshot::Views(const HostAdapter& like) const {
  const float* flat = narrow_.empty()
                          ? reinterpret_cast<const float*>(static_cast<const char*>(block_.data()) +
                                                           pieces_[kParam].offset)
                          : narrow_.data();
  std::vector<AdapterModuleView> views;
  for (size_t i = 0; i < like.modules.size(); ++i) {
    const AdapterModule& module = like.modules[i];
    const TrainableAdapter::Module& trained = adapter_.modules()[i];
    LORAD_CHECK(module.id == trained.id);
    const auto matrix = [&](size_t index, const TensorView& view) {
      return absl::MakeConstSpan(flat + adapter_.offsets()[index], view.num_elements());
    };
    views.push_back({module.id, module.rank, module.scaling, matrix(2 * i, trained.a),
                     matrix(2 * i + 1, trained.b)});
  }
  return views;
}

HostAdapter AdapterSnapshot::ToHost(const HostAdapter& like) const {
  HostAdapter adapter;
  adapter.config = like.config;
  const std::vector<AdapterModuleView> views = Views(like);
  for (size_t i = 0; i < views.size(); ++i) {
    AdapterModule module;
    module.id = like.modules[i].id;
    module.rank = like.modules[i].rank;
    module.alpha = like.modules[i].alpha;
    module.scaling = like.modules[i].scaling;
    module.a.assign(views[i].a.begin(), views[i].a.end());
    module.b.assign(views[i].b.begin(), views[i].b.end());
    adapter.modules.push_back(std::move(module));
  }
  return adapter;
}

template <typename T>
std::vector<T> AdapterSnapshot::Copy(Part part) const {
  const Piece& piece = pieces_[part];
  LORAD_CHECK(piece.from.dtype == DTypeOf<T>);
  const T* data =
      reinterpret_cast<const T*>(static_cast<const char*>(block_.data()) + piece.offset);
  return std::vector<T>(data, data + piece.from.num_elements());
}

std::vector<float> AdapterSnapshot::Floats(Part part) const {
  if (pieces_[part].from.dtype == DType::kF32) return Copy<float>(part);
  const std::vector<double> wide = Copy<double>(part);
  return std::vector<float>(wide.begin(), wide.end());
}

HostMoment AdapterSnapshot::Moment(Part values, Part scales) const {
  HostMoment moment;
  if (pieces_[values].from.dtype != DType::kU8) {
    moment.values = Floats(values);
    return moment;
  }
  moment.codes = Copy<uint8_t>(values);
  moment.scales = Copy<float>(scales);
  return moment;
}

HostMoments AdapterSnapshot::Moments() const {
  return {.m = Moment(kM, kMScales), .v = Moment(kV, kVScales)};
}

}  // namespace lorad
