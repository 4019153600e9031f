// What a model and a job take of memory before either exists, and what to change where it is too
// much.
#ifndef LORAD_ENGINE_PLAN_MEMORY_PLAN_H_
#define LORAD_ENGINE_PLAN_MEMORY_PLAN_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/core/quant_spec.h"
#include "engine/model/config.h"
#include "engine/model/modules.h"
#include "engine/plan/checkpointing.h"
#include "engine/plan/optimizer_kind.h"

namespace lorad {

enum class PlanMode : uint8_t {
  kInference,
  kFull,   // all weights are trained
  kLora,   // adapters over frozen weights
  kQlora,  // the same over 4-bit weights: kLora whose precision is nf4 unless another is given
};

constexpr bool TrainsAdapters(PlanMode mode) {
  return mode == PlanMode::kLora || mode == PlanMode::kQlora;
}

// Of the decoder's linears; embeddings, head and norms of k-bit models stay in 16 bits.
enum class BasePrecision : uint8_t { kFp32, kFp16, kBf16, kInt8, kInt4, kFp4, kNf4 };
constexpr bool IsKBit(BasePrecision precision) { return precision >= BasePrecision::kInt8; }
// The engine holds weights so.
constexpr bool IsOfEngine(BasePrecision precision) { return precision >= BasePrecision::kBf16; }

// Which sums.
enum class MemoryAccount : uint8_t {
  // What automatic differentiation keeps of an unfused decoder, every matrix of attention scores
  // included: the sums of textbooks and papers.
  kTextbook,
  // What this engine lays out for a job, to the byte on the CPU: fused attention, a gradient for
  // adapters alone, scratch of its ops. kLora and kQlora.
  kEngine,
};

enum class PlanDevice : uint8_t { kCpu, kCuda };

// Rank of each projection's adapters in every layer; 0: not adapted.
using PlanRanks = std::array<int64_t, kNumProjections>;

struct MemoryRequest {
  ModelConfig model;  // CheckPlannable
  PlanMode mode = PlanMode::kInference;
  BasePrecision precision = BasePrecision::kBf16;
  int32_t quant_block = 64;  // of k-bit weights: a power of two in [32, 4096]
  bool double_quant = true;  // of k-bit weights
  PlanRanks ranks{};         // of kLora and kQlora; at least one above 0, none above 1024 or its
                             // matrix's smaller side
  bool dropout = false;      // a lora_dropout above 0
  int64_t batch = 1;         // sequences: of a micro-batch, or served at once; [1, 2^20]
  int64_t sequence = 2048;   // tokens of each; [1, 2^24]
  int64_t accumulation = 1;  // micro-batches of an optimiser step; [1, 2^20]
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  std::string checkpointing = "none";  // as TrainingSpec::activation_checkpointing
  int64_t budget_bytes = 0;            // what checkpointing "auto" fits into, and advice; 0: none
  MemoryAccount account = MemoryAccount::kEngine;
  PlanDevice device = PlanDevice::kCuda;  // kEngine: how it lays out
  int32_t cpu_threads = 1;                // kEngine on kCpu: scratch is per thread; >= 1
};

// What memory is for. Activations are of a micro-batch, by what they are kept for.
enum class MemoryKind : uint8_t {
  kWeights,         // codes of k-bit weights, everything of others
  kQuantConstants,  // scales, scales of scales, code books
  kAdapters,
  kGradients,
  kMoments,
  kKvCache,
  kNormInputs,  // the residual stream: each norm's input, and its statistics
  kQkvInput,    // the first norm's output
  kQuery,
  kKey,
  kValue,
  kScores,      // attention matrix, heads * sequence^2 for each sequence
  kSoftmax,     // its softmax; fused attention keeps a number for each row
  kProjection,  // attention's output, the input of the projection
  kMlp,         // its input, gate, up, and their product where it is kept
  kLoraInputs,  // x A^T
  kLogits,      // and the loss
  kScratch,     // gradients of activations
  kWorkspace,   // of ops: decoded weights, logits of a chunk
};
inline constexpr int kNumMemoryKinds = static_cast<int>(MemoryKind::kWorkspace) + 1;
std::string_view Name(MemoryKind kind);         // "scores"
std::string_view Description(MemoryKind kind);  // for people
bool IsActivation(MemoryKind kind);             // kNormInputs to kScratch

using BytesByKind = std::array<int64_t, kNumMemoryKinds>;

struct MemoryPlan {
  BytesByKind bytes{};
  int64_t total_bytes = 0;
  int64_t pinned_bytes = 0;  // of the host, beside it: paged moments, offloaded inputs, a snapshot
  int64_t parameters = 0;    // of the base model
  int64_t trained_parameters = 0;
  double bits_per_weight = 0;  // of the decoder's linears, constants included
  ActivationCheckpointing checkpointing;
  std::string checkpointing_text;  // Describe()
  LayerChain chain;                // of training: what policies trade; num_layers 0 without
};

// kInvalidArgument names the field, the value and the bound.
absl::StatusOr<MemoryPlan> MakeMemoryPlan(const MemoryRequest& request);

// kInvalidArgument as MakeMemoryPlan gives it.
absl::Status Validate(const MemoryRequest& request);

// Of adapters, of the whole model, or none. REQUIRES: Validate(request).
int64_t TrainedParameters(const MemoryRequest& request);

// 4-bit formats, int8, or none.
QuantSpec QuantOf(const MemoryRequest& request);
// Of weights that are held so: bf16 where they are not quantised.
BasePrecision PrecisionOf(QuantFormat format);

// A number of equal cards that together hold `bytes`, shared out evenly.
struct CardCount {
  std::string card;  // "80 GB"
  int64_t card_bytes = 0;
  int64_t count = 0;
};
// For cards of 24, 48, 80 and 141 GB (10^9 bytes).
std::vector<CardCount> CountCards(int64_t bytes);

// A change that makes a plan smaller, and what the plan takes after it and those before it.
struct MemoryAdvice {
  struct Setting {
    std::string name;  // of loractl plan memory's flag: "activations", "optim", "batch", ...
    std::string value;
  };
  std::vector<Setting> settings;
  std::string cost;  // for people: "a third more computing"
  int64_t total_bytes = 0;
  bool fits = false;
};
// Changes in the order of their cost, each on top of the ones before, until the plan fits
// `budget_bytes`; those that save next to nothing are left out. Empty where it fits as it is. When
// the last does not fit, nothing does. With `keeps_base` nothing touches the base model's weights.
absl::StatusOr<std::vector<MemoryAdvice>> AdviseMemory(const MemoryRequest& request,
                                                       int64_t budget_bytes,
                                                       bool keeps_base = false);

}  // namespace lorad

#endif  // LORAD_ENGINE_PLAN_MEMORY_PLAN_H_
