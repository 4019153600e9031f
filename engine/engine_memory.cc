#include "engine/engine_memory.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "engine/core/checked_math.h"
#include "engine/core/status_macros.h"
#include "engine/plan/memory.h"

namespace lorad {
namespace {

// Rows of one prefill chunk. On the CPU a chunk is what a decoding row may have to wait for; at 256
// rows dequantising the weights is already a small part of the work. On a GPU matrices need more.
constexpr int64_t kCpuChunkTokens = 256;
constexpr int64_t kCudaChunkTokens = 2048;
// With a target for the time between two tokens a chunk must be short. By arithmetic an H100 runs
// about 20 tokens of an 8B model in a millisecond, at 512 rows with the weights decoded once; below
// 256 rows decoding them is most of the time.
constexpr double kCudaChunkTokensPerMs = 20;
constexpr int64_t kLeastCudaChunkTokens = 256;
// On an H200 16 rows of an 8B model take 5 ms and 64 take 9, decoding its weights about 11.
constexpr int64_t kCudaRowChunkTokens = 64;

absl::Status OutOfRange(const char* name, int64_t value, const char* range) {
  return absl::InvalidArgumentError(absl::StrFormat("%s is %d; it must be %s", name, value, range));
}

// The host's memory is shared with everything else that runs; a device's only with its driver.
int64_t DefaultLimit(const DeviceInfo& device) {
  return device.kind == "cpu" ? device.memory_bytes / 4 * 3 : device.memory_bytes / 20 * 19;
}

absl::Status SizeKvCache(const EngineConfig& config, const ModelConfig& model, int64_t left,
                         EngineMemory* memory) {
  const int64_t page_bytes = KvPageBytes(memory->kv);
  int64_t tokens = config.kv_cache_tokens;
  if (tokens == 0) {
    const int64_t wanted = model.max_position_embeddings * config.max_running_requests;
    const int64_t affordable = left / 2 / page_bytes * memory->kv.page_tokens;
    tokens = std::min(wanted, affordable);
  }
  memory->kv.num_pages = CeilDiv(tokens, memory->kv.page_tokens);
  const auto bytes = CheckedMul(memory->kv.num_pages, page_bytes);
  if (memory->kv.num_pages < 1 || !bytes.has_value() || *bytes > left) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "memory: %d bytes may be used; weights take %d, workspace %d, and a KV cache of %d tokens "
        "would take %d bytes for each page of %d tokens; raise --memory_limit or lower "
        "--kv_cache_tokens",
        memory->total, memory->weights, memory->workspace, tokens, page_bytes,
        memory->kv.page_tokens));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t ChunkTokens(const EngineConfig& config, const DeviceInfo& device) {
  int64_t chunk = device.kind == "cpu" ? kCpuChunkTokens : kCudaChunkTokens;
  if (device.kind != "cpu" && config.itl_target_ms > 0) {
    const double wanted = config.itl_target_ms * kCudaChunkTokensPerMs;
    chunk = kLeastCudaChunkTokens;
    while (chunk < kCudaChunkTokens && static_cast<double>(2 * chunk) <= wanted) chunk *= 2;
  }
  return std::min<int64_t>(chunk, config.max_batch_tokens);
}

PassKind PromptKind(const EngineConfig& config, const DeviceInfo& device) {
  const bool rows = device.kind != "cpu" && config.itl_target_ms > 0 &&
                    config.itl_target_ms * kCudaChunkTokensPerMs < 2 * kLeastCudaChunkTokens;
  return rows ? PassKind::kRowInvariant : PassKind::kMatrix;
}

absl::Status ValidateEngineConfig(const EngineConfig& config) {
  if (config.model_dir.empty())
    return absl::InvalidArgumentError("model is empty; give a Hugging Face model directory");
  if (config.memory_limit_bytes < 0)
    return OutOfRange("memory_limit", config.memory_limit_bytes, ">= 0 bytes (0: what there is)");
  if (config.kv_cache_tokens < 0)
    return OutOfRange("kv_cache_tokens", config.kv_cache_tokens, ">= 0 (0: chosen)");
  if (config.adapter_host_memory_bytes < 0)
    return OutOfRange("adapter_host_memory", config.adapter_host_memory_bytes, ">= 0 bytes");
  if (config.max_batch_tokens < 1)
    return OutOfRange("max_batch_tokens", config.max_batch_tokens, ">= 1");
  if (config.max_running_requests < 1 || config.max_running_requests > 4096)
    return OutOfRange("max_running_requests", config.max_running_requests, "in [1, 4096]");
  if (config.max_queued_requests < 1)
    return OutOfRange("max_queued_requests", config.max_queued_requests, ">= 1");
  if (config.itl_target_ms != 0 && !(config.itl_target_ms >= 1 && config.itl_target_ms <= 60'000)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "itl_target_ms is %g; it must be in [1, 60000], or 0 for no target", config.itl_target_ms));
  }
  if (config.training_patience_steps < 1)
    return OutOfRange("training_patience_steps", config.training_patience_steps, ">= 1");
  if (config.num_threads < 0 || config.num_threads > 1024)
    return OutOfRange("num_threads", config.num_threads, "in [0, 1024] (0: all cores)");
  return absl::OkStatus();
}

absl::StatusOr<EngineMemory> PlanMemory(const EngineConfig& config, const ModelConfig& model,
                                        const QuantSpec& quant, Backend& backend) {
  RETURN_IF_ERROR(CheckModelOptions({.quant_head = config.quant_head}, quant));
  EngineMemory memory;
  memory.total =
      config.memory_limit_bytes > 0 ? config.memory_limit_bytes : DefaultLimit(backend.info());
  memory.weights = ModelWeightBytes(model, quant);
  if (config.quant_head) memory.weights += QuantHeadBytes(model, quant);
  memory.kv.num_layers = model.num_layers;
  memory.kv.num_kv_heads = model.num_kv_heads;
  memory.kv.head_dim = model.head_dim;
  memory.kv.dtype = backend.activation_dtype();

  memory.prompt_kind = PromptKind(config, backend.info());
  memory.chunk_tokens = ChunkTokens(config, backend.info());
  if (backend.info().kind != "cpu") memory.row_chunk_tokens = kCudaRowChunkTokens;
  // The prefix cache shares whole chunks of whole pages, and pages where prompts are run row by
  // row; a chunk below a page has none to share.
  if (memory.chunk_tokens > memory.kv.page_tokens)
    memory.chunk_tokens -= memory.chunk_tokens % memory.kv.page_tokens;
  if (config.prefix_cache && memory.chunk_tokens >= memory.kv.page_tokens)
    memory.kv.prefix_block_tokens =
        memory.prompt_kind == PassKind::kMatrix ? memory.chunk_tokens : memory.kv.page_tokens;
  memory.runner.max_sequences = config.max_running_requests;
  memory.runner.max_tokens = std::max<int64_t>(memory.chunk_tokens, config.max_running_requests);
  memory.runner.context_tokens = model.max_position_embeddings;
  memory.runner.max_rank = kMaxAdapterRank;
  ASSIGN_OR_RETURN(memory.workspace, RunnerWorkspaceBytes(model, quant, backend,
                                                          memory.kv.page_tokens, memory.runner));
  // What the backend has taken for its ops.
  memory.workspace += backend.allocator().Usage(MemoryTag::kWorkspace).used_bytes;

  const int64_t left = memory.total - memory.weights - memory.workspace;
  RETURN_IF_ERROR(SizeKvCache(config, model, left, &memory));
  memory.context_tokens =
      std::min<int64_t>(model.max_position_embeddings, memory.kv.num_pages * memory.kv.page_tokens);
  const int64_t page_bytes = KvPageBytes(memory.kv);
  const int64_t rest = left - memory.kv.num_pages * page_bytes;
  const int64_t adapter_pages = rest / 4 / page_bytes;
  memory.adapters = adapter_pages * page_bytes;
  memory.training = rest - memory.adapters;
  memory.kv.num_pages += adapter_pages;
  return memory;
}

}  // namespace lorad
