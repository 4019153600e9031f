#include "tests/bench/bench_serve_decode.h"

#include "engine/kv/kv_cache.h"

namespace lorad::bench {

void CountBytes(const Model& model, const Backend& backend, DecodePoint& point) {
  const ModelConfig& config = model.config();
  // An embedding that is not the head too is looked up, not read.
  int64_t not_read = config.tie_word_embeddings ? 0 : model.embedding().size_bytes();
  // Nor is a dense head that decoding has a quantised copy of.
  if (model.decode_head().dense.empty()) not_read += model.head().dense.size_bytes();
  point.bytes.weights = model.weight_bytes() - not_read;

  KvCacheOptions one_token;
  one_token.num_layers = config.num_layers;
  one_token.num_kv_heads = config.num_kv_heads;
  one_token.head_dim = config.head_dim;
  one_token.num_pages = one_token.page_tokens = 1;
  one_token.dtype = backend.activation_dtype();
  const auto tokens = static_cast<int64_t>(static_cast<double>(point.batch) * point.context);
  point.bytes.kv = tokens * KvPageBytes(one_token);

  point.adapter_bytes_each = point.adapter_parameters * SizeOf(backend.activation_dtype());
  point.bytes.adapters = point.distinct_adapters * point.adapter_bytes_each;
}

}  // namespace lorad::bench
