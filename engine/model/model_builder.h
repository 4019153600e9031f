// A model in the making: its memory, and where each tensor stands in it. Internal to engine/model.
#ifndef LORAD_ENGINE_MODEL_MODEL_BUILDER_H_
#define LORAD_ENGINE_MODEL_MODEL_BUILDER_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/arena.h"
#include "engine/core/quant_spec.h"
#include "engine/device/backend.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"
#include "engine/model/weights.h"

namespace lorad {

// Takes device memory, a block for the shared tensors and one for each layer, and lays the tensors
// out in it; their values come from the caller. What it takes is ModelWeightBytes, and
// QuantHeadBytes if there is one (engine/plan/memory.h), unless linears are kept in 16 bits apart.
// Thread-compatible.
class ModelBuilder {
 public:
  // The decoder's linears take `quant`. `backend` and `stream` are not owned.
  // REQUIRES: options.quant_head only with a quantisation.
  ModelBuilder(ModelConfig config, const QuantSpec& quant, Backend& backend, Stream& stream,
               const ModelOptions& options = {});

  // Embedding, head, last norm, rope frequencies and the code books of all matrices. Comes before
  // the layers: their matrices refer to the code books.
  absl::Status PlaceShared();
  // `sixteen_bit`: the linears that are kept in 16 bits whatever the model's quantisation is.
  absl::Status PlaceLayer(int64_t index, const std::array<bool, kNumProjections>& sixteen_bit = {});

  // Valid until Finish(). Views are empty until they are placed.
  const Model& model() const { return *model_; }
  LayerWeights& layer(int64_t index) { return model_->layers_[index]; }
  // The quantised head, to be written; null: there is none of its own.
  WeightView* quant_head() { return options_.quant_head ? &model_->decode_head_ : nullptr; }
  ConstTensorView code_book() const { return code_book_; }      // empty: no quantisation
  ConstTensorView nested_code() const { return nested_code_; }  // likewise

  // Queues a copy to byte `offset` of a tensor of this model. `from` stays as it is until the
  // stream is synchronised.
  absl::Status Queue(const void* from, int64_t bytes, const ConstTensorView& to, int64_t offset);
  // Copies; the source may go away on return.
  absl::Status Upload(const ConstTensorView& from, const ConstTensorView& to);
  absl::Status Upload(const std::vector<float>& from, const ConstTensorView& to);

  // Puts the linears of all layers, which are written by now, into the order that the backend's
  // kernels stream. Waits for the stream. Takes the memory of the largest of them meanwhile.
  absl::Status Arrange();

  // The finished model; this is empty afterwards.
  std::shared_ptr<const Model> Finish(std::string digest);

 private:
  // Runs a layout twice: for its size, then over one block of device memory of that size.
  absl::Status Place(const std::function<absl::Status(Arena&)>& layout);
  absl::Status LayOutShared(Arena& arena);
  absl::Status LayOutLayer(const std::array<bool, kNumProjections>& sixteen_bit, Arena& arena,
                           LayerWeights& layer);
  absl::Status LayOutWeight(bool sixteen_bit, Arena& arena, WeightView& weight);

  Backend& backend_;
  Stream& stream_;
  const ModelOptions options_;
  std::unique_ptr<Model> model_;
  ConstTensorView code_book_, nested_code_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_MODEL_BUILDER_H_
