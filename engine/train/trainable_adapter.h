// A LoRA adapter under training on a device: weights, gradients and Adam's moments.
#ifndef LORAD_ENGINE_TRAIN_TRAINABLE_ADAPTER_H_
#define LORAD_ENGINE_TRAIN_TRAINABLE_ADAPTER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/arena.h"
#include "engine/device/backend.h"
#include "engine/lora/adapter.h"
#include "engine/ops/optimizer.h"
#include "engine/plan/optimizer_kind.h"

namespace lorad {

// One of Adam's moments on the host, in the order of the flat tensors: as fp32, or as 8-bit codes
// and scales, to the bit.
struct HostMoment {
  std::vector<float> values;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};
struct HostMoments {
  HostMoment m, v;
};

// Weights, gradients and each moment are flat tensors in which all modules' A and B stand one after
// another, so that clearing, the gradient norm and the update are one op each. No two matrices
// share a scale of 8-bit moments. Thread-compatible.
class TrainableAdapter {
 public:
  struct Module {
    ModuleId id;
    float scaling = 0;
    TensorView a, da;  // [rank, in]
    TensorView b, db;  // [out, rank]
  };

  // Lays out an adapter of the modules and ranks of `adapter`; no weights yet. `arena` may be a
  // measuring one; otherwise paged moments are allocated here. `backend` is not owned.
  static absl::StatusOr<TrainableAdapter> Create(const HostAdapter& adapter, Backend& backend,
                                                 Arena& arena,
                                                 OptimizerKind kind = OptimizerKind::kAdamW);

  const std::vector<Module>& modules() const { return modules_; }
  TensorView params() const { return tensor_.param; }  // [num_elements]
  TensorView grads() const { return grads_; }
  // Where A (2 i) and B (2 i + 1) of module i begin in the flat tensors, elements.
  const std::vector<int64_t>& offsets() const { return offsets_; }
  // What the update works on.
  const AdamWTensor& tensor() const { return tensor_; }
  // Values of the 8-bit codes; empty with full moments.
  ConstTensorView m_code() const { return m_code_; }
  ConstTensorView v_code() const { return v_code_; }

  int64_t device_bytes() const { return device_bytes_; }  // taken from the arena
  int64_t pinned_bytes() const { return pinned_bytes_; }  // of paged moments

  // Sets the weights, and gradients and moments to zero. Blocks.
  // REQUIRES: the modules and ranks of Create().
  absl::Status SetWeights(const HostAdapter& adapter, Stream& stream);
  // Replaces the weights of `adapter` by those on the device. Blocks.
  absl::Status GetWeights(HostAdapter& adapter, Stream& stream) const;
  // kFailedPrecondition unless the moments have this adapter's form and sizes. Block.
  absl::Status SetMoments(const HostMoments& moments, Stream& stream);
  absl::StatusOr<HostMoments> GetMoments(Stream& stream) const;
  // A flat tensor of this adapter, of adapter dtype, to the host as fp32. Blocks.
  absl::StatusOr<std::vector<float>> ToHost(TensorView flat, Stream& stream) const;

 private:
  explicit TrainableAdapter(Backend& backend) : backend_(&backend) {}

  absl::Status AllocateMoments(OptimizerKind kind, Arena& arena);
  absl::Status SetMoment(const HostMoment& from, TensorView to, TensorView to_scales,
                         Stream& stream);
  absl::StatusOr<HostMoment> GetMoment(TensorView from, TensorView from_scales,
                                       Stream& stream) const;
  absl::Status FromHost(const std::vector<float>& values, TensorView flat, Stream& stream);

  Backend* backend_;
  std::vector<Module> modules_;
  std::vector<int64_t> offsets_;  // A, B of each module in the flat tensors, elements
  AdamWTensor tensor_;
  TensorView grads_;
  TensorView m_code_, v_code_;
  DeviceBuffer pinned_;
  int64_t device_bytes_ = 0, pinned_bytes_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_TRAINABLE_ADAPTER_H_
