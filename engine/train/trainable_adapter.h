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

namespace lorad {

// Each of the four is one flat tensor of adapter dtype in which all modules' A and B stand one
// after another, so that clearing, the gradient norm and the update are one op each. Thread-
// compatible.
class TrainableAdapter {
 public:
  struct Module {
    ModuleId id;
    float scaling = 0;
    TensorView a, da;  // [rank, in]
    TensorView b, db;  // [out, rank]
  };

  // Lays out an adapter of the modules and ranks of `adapter`; no weights yet. `arena` may be a
  // measuring one. `backend` is not owned.
  static absl::StatusOr<TrainableAdapter> Create(const HostAdapter& adapter, Backend& backend,
                                                 Arena& arena);

  const std::vector<Module>& modules() const { return modules_; }
  TensorView params() const { return params_; }  // [num_elements]
  TensorView grads() const { return grads_; }
  TensorView m() const { return m_; }
  TensorView v() const { return v_; }

  // Sets the weights, and everything else to zero. Blocks.
  // REQUIRES: the modules and ranks of Create().
  absl::Status SetWeights(const HostAdapter& adapter, Stream& stream);
  // Replaces the weights of `adapter` by those on the device. Blocks.
  absl::Status GetWeights(HostAdapter& adapter, Stream& stream) const;
  // A flat tensor of this adapter to or from the host, as fp32. Block.
  absl::StatusOr<std::vector<float>> ToHost(TensorView flat, Stream& stream) const;
  absl::Status FromHost(const std::vector<float>& values, TensorView flat, Stream& stream);

 private:
  explicit TrainableAdapter(Backend& backend) : backend_(&backend) {}

  Backend* backend_;
  std::vector<Module> modules_;
  std::vector<int64_t> offsets_;  // A, B of each module in the flat tensors, elements
  TensorView params_, grads_, m_, v_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_TRAIN_TRAINABLE_ADAPTER_H_
