// The identity of a base model. Internal to engine/model.
#ifndef LORAD_ENGINE_MODEL_CHECKPOINT_DIGEST_H_
#define LORAD_ENGINE_MODEL_CHECKPOINT_DIGEST_H_

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "engine/core/quant_spec.h"
#include "engine/io/safetensors_checkpoint.h"
#include "engine/model/config.h"

namespace lorad {

// sha256 over the lines
//   lorad model 1
//   <family and every setting of the config that changes the maths>
//   <quant spec>
//   <name> <dtype> <shape> <sha256 of the bytes>        for each tensor, by name
// so it does not depend on how a checkpoint is cut into shards. Tensors are hashed by threads of
// its own while the model loads. Thread-compatible.
class CheckpointDigest {
 public:
  // Starts hashing. `checkpoint` is not owned and must outlive this.
  explicit CheckpointDigest(const SafetensorsCheckpoint& checkpoint);
  ~CheckpointDigest();  // stops early when Finish was not called

  // Waits for the hashes. Call once.
  std::string Finish(const ModelConfig& config, const QuantSpec& quant);

 private:
  void Work();

  const SafetensorsCheckpoint& checkpoint_;
  std::vector<std::string> tensor_digests_;  // by entry; each written by one thread
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_MODEL_CHECKPOINT_DIGEST_H_
