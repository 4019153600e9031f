// Small random model directories, whole or broken on purpose.
#ifndef LORAD_TESTS_SUPPORT_TINY_MODEL_H_
#define LORAD_TESTS_SUPPORT_TINY_MODEL_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/core/dtype.h"
#include "engine/lora/adapter.h"
#include "engine/model/config.h"

namespace lorad {

struct TinyModelOptions {
  std::string architecture = "LlamaForCausalLM";
  int64_t hidden = 32;
  int64_t intermediate = 48;
  int64_t layers = 2;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t head_dim = 8;
  int64_t vocab = 40;
  bool tied = false;
  bool attention_bias = false;
  bool mlp_bias = false;
  DType dtype = DType::kBF16;  // kBF16, kF16 or kF32; every value is exact in bf16 all the same
  uint64_t seed = 1;
};
// Of a size that CUDA's quick kernels take: columns in whole groups of 256, heads of 128.
inline TinyModelOptions QuickKernelsModel() {
  return {.hidden = 512,
          .intermediate = 1024,
          .layers = 2,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 128,
          .vocab = 2048};
}

// The content of a model directory, to be changed at will before it is written.
class TinyModel {
 public:
  struct Tensor {
    DType dtype;
    std::vector<int64_t> shape;
    std::string bytes;
  };

  explicit TinyModel(const TinyModelOptions& options = {});

  std::map<std::string, Tensor> tensors;      // by name
  std::map<std::string, std::string> config;  // key -> JSON text of its value

  // As parsed by the engine. REQUIRES: a valid config.
  ModelConfig ParsedConfig() const;
  std::string ConfigJson() const;
  // Sets a tensor's values, stored as `dtype`.
  void Set(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values,
           DType dtype);
  // The values of a tensor, as floats.
  std::vector<float> Values(const std::string& name) const;

  // Writes config.json and model.safetensors, or `shards` files with their index, into `dir`.
  void Write(const std::string& dir, int shards = 1) const;
};

// Values in [-scale, scale), a function of the seed, rounded to bf16.
std::vector<float> RandomValues(int64_t count, float scale, uint64_t seed);

// An adapter of all linear layers; A and B random, `rank(i)` of module i cycles through `ranks`.
HostAdapter RandomAdapter(const ModelConfig& config, const std::vector<int32_t>& ranks,
                          uint64_t seed);

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_TINY_MODEL_H_
