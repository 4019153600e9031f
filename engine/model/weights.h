#ifndef LORAD_ENGINE_MODEL_WEIGHTS_H_
#define LORAD_ENGINE_MODEL_WEIGHTS_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/quant_spec.h"
#include "engine/device/backend.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"
#include "engine/ops/weight.h"

namespace lorad {

struct LinearWeights {
  WeightView weight;
  ConstTensorView bias;  // kF32 [out]; empty: none
};

struct LayerWeights {
  ConstTensorView input_norm;           // kF32 [hidden]
  ConstTensorView post_attention_norm;  // kF32 [hidden]
  std::array<LinearWeights, kNumProjections> linear;

  const LinearWeights& operator[](Projection p) const { return linear[static_cast<int>(p)]; }
};

struct ModelOptions {
  // A second copy of the head for decoding, quantised as the decoder's linears are: the head is
  // read for every token, and 4 bits are read four times as fast. Sampled tokens and their logprobs
  // come from it; losses and scores from the 16-bit one. kInvalidArgument where `quant` is none.
  bool quant_head = false;
};
absl::Status CheckModelOptions(const ModelOptions& options, const QuantSpec& quant);

// The frozen base model on a device. Immutable after loading; shared by serving and training, which
// is why it is held by shared_ptr<const Model>. Thread-safe.
class Model {
 public:
  // Memory-maps the checkpoint in `model_dir`, checks every tensor's name, dtype and shape, then
  // quantises layer by layer onto the device: the peak is the finished model plus one layer.
  // Linears of the decoder layers take `quant`; embeddings, norms and the head stay 16-bit.
  // A checkpoint that is already quantised by bitsandbytes (4 bits) loads as it is, and quant()
  // says how; matrices that it left in 16 bits stay so.
  // kNotFound: a file or tensor is missing; kInvalidArgument: names the tensor, what it has and
  // what was expected, or the truncated file; kDataLoss: a file changed while it was loaded;
  // kResourceExhausted: memory. Nothing is allocated before everything is checked but the values
  // themselves (they must be finite), and nothing is kept when it fails.
  static absl::StatusOr<std::shared_ptr<const Model>> Load(const std::string& model_dir,
                                                           const QuantSpec& quant, Backend& backend,
                                                           const ModelOptions& options = {});

  const ModelConfig& config() const { return config_; }
  const QuantSpec& quant() const { return quant_; }
  // sha256 (hex) over the settings that change the maths, the names and bytes of all tensors of the
  // checkpoint, and quant(); the same however the checkpoint is cut into files.
  const std::string& digest() const { return digest_; }
  int64_t weight_bytes() const { return weight_bytes_; }
  int64_t num_parameters() const { return num_parameters_; }

  ConstTensorView embedding() const { return embedding_; }  // kBF16 [vocab, hidden]
  const WeightView& head() const { return head_; }  // [vocab, hidden]; the embedding if tied
  // What logits of sampled tokens are computed with: head(), or with ModelOptions::quant_head the
  // same matrix in quant().
  const WeightView& decode_head() const { return decode_head_; }
  ConstTensorView final_norm() const { return final_norm_; }        // kF32 [hidden]
  ConstTensorView rope_inv_freq() const { return rope_inv_freq_; }  // kF32 [head_dim / 2]
  const LayerWeights& layer(int64_t index) const { return layers_[index]; }

 private:
  friend class ModelBuilder;  // model/model_builder.h
  Model() = default;

  ModelConfig config_;
  QuantSpec quant_;
  std::string digest_;
  int64_t weight_bytes_ = 0;
  int64_t num_parameters_ = 0;
  std::vector<DeviceBuffer> buffers_;
  ConstTensorView embedding_, final_norm_, rope_inv_freq_;
  WeightView head_, decode_head_;
  std::vector<LayerWeights> layers_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_WEIGHTS_H_
