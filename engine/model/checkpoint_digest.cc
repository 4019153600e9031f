#include "engine/model/checkpoint_digest.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/io/sha256.h"
#include "engine/quant/quant.h"

namespace lorad {
namespace {

std::string ConfigText(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  const char* family = config.family == ModelFamily::kLlama ? "llama" : "qwen2";
  return absl::StrCat(
      family, " hidden=", config.hidden_size, " intermediate=", config.intermediate_size,
      " layers=", config.num_layers, " heads=", config.num_heads, " kv_heads=", config.num_kv_heads,
      " head_dim=", config.head_dim, " vocab=", config.vocab_size,
      absl::StrFormat(" eps=%.17g", config.rms_norm_eps), " qkv_bias=", config.qkv_bias,
      " o_bias=", config.o_bias, " mlp_bias=", config.mlp_bias,
      " tied=", config.tie_word_embeddings, " rope=", static_cast<int>(rope.type),
      absl::StrFormat(" theta=%.17g factor=%.17g low=%.17g high=%.17g", rope.theta, rope.factor,
                      rope.low_freq_factor, rope.high_freq_factor),
      " original=", rope.original_max_position_embeddings);
}

}  // namespace

CheckpointDigest::CheckpointDigest(const SafetensorsCheckpoint& checkpoint)
    : checkpoint_(checkpoint), tensor_digests_(checkpoint.entries().size()) {
  // Half the cores: the others quantise meanwhile, which takes longer.
  const int count = std::clamp<int>(std::thread::hardware_concurrency() / 2, 1, 8);
  for (int i = 0; i < count; ++i) threads_.emplace_back([this] { Work(); });
}

CheckpointDigest::~CheckpointDigest() {
  stop_ = true;
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void CheckpointDigest::Work() {
  constexpr size_t kSlice = size_t{16} << 20;  // how much is hashed before stop_ is looked at
  for (size_t i = next_++; i < tensor_digests_.size(); i = next_++) {
    const SafetensorsEntry& entry = *checkpoint_.entries()[i];
    std::string_view bytes(static_cast<const char*>(entry.data), entry.size_bytes);
    Sha256 sha256;
    while (!bytes.empty()) {
      if (stop_) return;
      sha256.Update(bytes.substr(0, kSlice));
      bytes.remove_prefix(std::min(kSlice, bytes.size()));
    }
    tensor_digests_[i] = sha256.HexDigest();
  }
}

std::string CheckpointDigest::Finish(const ModelConfig& config, const QuantSpec& quant) {
  for (std::thread& thread : threads_) thread.join();
  std::string text =
      absl::StrCat("lorad model 1\n", ConfigText(config), "\n", FormatQuantSpec(quant), "\n");
  for (size_t i = 0; i < tensor_digests_.size(); ++i) {
    const SafetensorsEntry& entry = *checkpoint_.entries()[i];
    absl::StrAppend(&text, entry.name, " ", Name(entry.dtype), " ", entry.ShapeString(), " ",
                    tensor_digests_[i], "\n");
  }
  return Sha256Hex(text);
}

}  // namespace lorad
