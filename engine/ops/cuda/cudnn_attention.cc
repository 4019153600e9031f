#include "engine/ops/cuda/cudnn_attention.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/ops/cuda/cudnn_attention_layout.h"
#include "engine/ops/cuda/cudnn_offsets.h"

namespace lorad::cuda {
namespace {

// The only one on which the graphs have run. On 8.x packed sequences need other statistics, and on
// 10.x determinism needs an engine that the heuristics do not propose.
constexpr int kComputeCapabilityMajor = 9;
constexpr int64_t kHeadDimMultiple = 16;
constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kAlignmentBytes = 16;

struct TensorCheck {
  const char* name;
  const void* data;
  int64_t stride;  // in bf16 elements; 0: the tensor has none
};

template <size_t kTensors>
absl::Status CheckTensors(const TensorCheck (&tensors)[kTensors], int64_t num_tokens) {
  for (const TensorCheck& tensor : tensors) {
    if (reinterpret_cast<uintptr_t>(tensor.data) % kAlignmentBytes != 0 ||
        tensor.stride * int64_t{sizeof(BFloat16)} % kAlignmentBytes != 0) {
      return absl::UnimplementedError(absl::StrCat("cuDNN attention: rows of ", tensor.name,
                                                   " are not aligned to ", kAlignmentBytes));
    }
    if (num_tokens * tensor.stride > std::numeric_limits<int32_t>::max()) {
      return absl::UnimplementedError(absl::StrCat("cuDNN attention: ", tensor.name, " spans ",
                                                   num_tokens * tensor.stride,
                                                   " elements; offsets have 32 bits"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHeads(int64_t num_heads, int64_t num_kv_heads, int64_t head_dim) {
  if (num_kv_heads <= 0 || num_heads % num_kv_heads != 0) {
    return absl::UnimplementedError(absl::StrCat("cuDNN attention: ", num_heads,
                                                 " query heads over ", num_kv_heads, " key heads"));
  }
  if (head_dim <= 0 || head_dim % kHeadDimMultiple != 0 || head_dim > kMaxHeadDim) {
    return absl::UnimplementedError(absl::StrCat("cuDNN attention: head_dim is ", head_dim,
                                                 "; multiples of ", kHeadDimMultiple, " up to ",
                                                 kMaxHeadDim, " are supported"));
  }
  return absl::OkStatus();
}

absl::Status CheckRoom(int64_t bytes, int64_t room) {
  if (bytes <= room) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("cuDNN attention: the workspace is ", bytes - room, " bytes too small"));
}

// What the graphs read by value, from host memory, while an execution is queued.
struct Scalars {
  float scale;
  float masked = -std::numeric_limits<float>::infinity();
  float one = 1;
};

// The pointers of an execution by their uids.
class Pointers {
 public:
  explicit Pointers(Scalars& scalars) {
    Set(kUidScale, &scalars.scale);
    Set(kUidMasked, &scalars.masked);
    Set(kUidOne, &scalars.one);
  }
  // cuDNN takes what it only reads by pointers that are not const, too.
  void Set(int64_t uid, const void* pointer) { by_uid_[uid] = const_cast<void*>(pointer); }
  void* const* data() const { return by_uid_.data(); }

 private:
  std::array<void*, kNumCudnnAttentionUids> by_uid_{};
};

// A part of the workspace.
template <typename T>
T* At(const CudnnWorkspace& workspace, int64_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(workspace.data) + offset);
}

// Queues what makes lengths and offsets of a ragged problem, and points to them.
absl::Status SetSequences(const CudnnAttentionProblem& problem, const CudnnAttentionLayout& layout,
                          const int32_t* cu_seqlens, int64_t num_sequences,
                          const CudnnWorkspace& workspace, cudaStream_t stream,
                          Pointers& pointers) {
  if (!problem.ragged) return absl::OkStatus();
  std::array<int64_t, kNumRaggedTensors> strides{};
  strides[kRaggedQ] = problem.q_stride;
  strides[kRaggedK] = problem.k_stride;
  strides[kRaggedV] = problem.v_stride;
  strides[kRaggedO] = problem.o_stride;
  strides[kRaggedLse] = problem.heads;
  auto* lengths = At<int32_t>(workspace, layout.lengths);
  auto* offsets = At<int32_t>(workspace, layout.offsets);
  RETURN_IF_ERROR(ToStatus(
      LaunchCudnnOffsets(cu_seqlens, num_sequences, problem.sequences, strides.data(),
                         kNumRaggedTensors, layout.offsets_pitch, lengths, offsets, stream),
      "LaunchCudnnOffsets"));
  pointers.Set(kUidQLengths, lengths);
  pointers.Set(kUidKvLengths, lengths);
  for (int i = 0; i < kNumRaggedTensors; ++i) {
    pointers.Set(OffsetsUid(static_cast<CudnnRaggedTensor>(i)), offsets + i * layout.offsets_pitch);
  }
  return absl::OkStatus();
}

CudnnStatisticsOrder StatisticsOrder(const CudnnAttentionProblem& problem,
                                     const CudnnAttentionLayout& layout, int64_t num_tokens,
                                     int64_t num_heads) {
  return {.num_tokens = num_tokens,
          .num_heads = num_heads,
          .slice_heads = problem.heads,
          .slice_stride = layout.statistics_slice,
          .seqlen = problem.seqlen};
}

// Points to the heads of a slice: inputs where they are, gradients where they belong.
void SetSlice(const AttentionBackwardParams& params, const CudnnAttentionProblem& problem,
              int64_t slice, Pointers& pointers) {
  const int64_t q = slice * problem.heads * problem.head_dim;
  const int64_t k = slice * problem.kv_heads * problem.head_dim;
  pointers.Set(kUidQ, params.q + q);
  pointers.Set(kUidK, params.k + k);
  pointers.Set(kUidV, params.v + k);
  pointers.Set(kUidO, params.o + q);
  pointers.Set(kUidDout, params.dout + q);
  pointers.Set(kUidDq, params.dq + q);
  pointers.Set(kUidDk, params.dk + k);
  pointers.Set(kUidDv, params.dv + k);
}

}  // namespace

CudnnAttentionOptions CudnnAttentionOptions::FromEnvironment() {
  CudnnAttentionOptions options;
  const char* value = std::getenv("LORAD_NONDETERMINISTIC_ATTENTION");
  options.deterministic = value == nullptr || std::strcmp(value, "1") != 0;
  return options;
}

absl::StatusOr<std::unique_ptr<CudnnAttention>> CudnnAttention::Create(
    int device, const CudnnAttentionOptions& options) {
  int major = 0;
  RETURN_IF_ERROR(
      ToStatus(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
               "cudaDeviceGetAttribute"));
  if (major != kComputeCapabilityMajor) {
    return absl::UnimplementedError(
        absl::StrCat("attention through cuDNN is used on GPUs of compute capability ",
                     kComputeCapabilityMajor, ".x; this one has ", major, ".x"));
  }
  ASSIGN_OR_RETURN(const CudnnLibrary* library, CudnnLibrary::Get());
  return std::unique_ptr<CudnnAttention>(new CudnnAttention(*library, options));
}

absl::Status CudnnAttention::Supports(const AttentionForwardParams& p) const {
  RETURN_IF_ERROR(CheckHeads(p.num_heads, p.num_kv_heads, p.head_dim));
  return CheckTensors({{"q", p.q, p.q_stride},
                       {"k", p.k, p.k_stride},
                       {"v", p.v, p.v_stride},
                       {"o", p.o, p.o_stride},
                       {"lse", p.lse, 0}},
                      p.num_tokens);
}

absl::Status CudnnAttention::Supports(const AttentionBackwardParams& p) const {
  RETURN_IF_ERROR(CheckHeads(p.num_heads, p.num_kv_heads, p.head_dim));
  return CheckTensors({{"dout", p.dout, p.dout_stride},
                       {"q", p.q, p.q_stride},
                       {"k", p.k, p.k_stride},
                       {"v", p.v, p.v_stride},
                       {"o", p.o, p.o_stride},
                       {"lse", p.lse, 0},
                       {"dq", p.dq, p.dq_stride},
                       {"dk", p.dk, p.dk_stride},
                       {"dv", p.dv, p.dv_stride}},
                      p.num_tokens);
}

int64_t CudnnAttention::WorkspaceBytes(const AttentionForwardParams& params) const {
  return CudnnForwardWorkspaceBytes(params);
}

int64_t CudnnAttention::WorkspaceBytes(const AttentionBackwardParams& params,
                                       int64_t max_seqlen) const {
  return CudnnBackwardWorkspaceBytes(params, max_seqlen, options_.deterministic,
                                     options_.score_workspace_bytes);
}

absl::StatusOr<CudnnPlan> CudnnAttention::MakePlan(const CudnnAttentionProblem& problem,
                                                   CudnnHandle& handle) const {
  std::unique_ptr<CudnnGraph> graph = problem.backward ? AttentionBackwardGraph(library_, problem)
                                                       : AttentionForwardGraph(library_, problem);
  RETURN_IF_ERROR(graph->Finalize(handle.get()));
  return MakeCudnnPlan(std::move(graph), handle.get());
}

absl::StatusOr<const CudnnPlan*> CudnnAttention::FindPlan(const CudnnAttentionProblem& problem,
                                                          int64_t room, CudnnHandle& handle) {
  RETURN_IF_ERROR(CheckRoom(ScoreBytes(problem), room));  // before a plan is made in vain
  auto found = plans_.find(problem);
  if (found == plans_.end()) found = plans_.emplace(problem, MakePlan(problem, handle)).first;
  const absl::StatusOr<CudnnPlan>& plan = found->second;
  if (!plan.ok()) {
    // Whatever it was, lorad's own kernels can do without.
    return absl::UnimplementedError(
        absl::StrCat("cuDNN attention: no plan: ", plan.status().message()));
  }
  RETURN_IF_ERROR(CheckRoom(plan->workspace_bytes, room));
  return &*plan;
}

absl::Status CudnnAttention::Forward(const AttentionForwardParams& params, int64_t max_seqlen,
                                     const CudnnWorkspace& workspace, CudnnHandle& handle) {
  if (params.num_tokens == 0) return absl::OkStatus();
  RETURN_IF_ERROR(Supports(params));
  const CudnnAttentionProblem problem = ForwardProblem(params, max_seqlen);
  const CudnnAttentionLayout layout(problem, params.num_tokens, 1);
  const absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(const CudnnPlan* plan, FindPlan(problem, workspace.bytes - layout.plan, handle));

  Scalars scalars{.scale = params.scale};
  Pointers pointers(scalars);
  RETURN_IF_ERROR(SetSequences(problem, layout, params.cu_seqlens, params.num_sequences, workspace,
                               handle.stream(), pointers));
  pointers.Set(kUidQ, params.q);
  pointers.Set(kUidK, params.k);
  pointers.Set(kUidV, params.v);
  pointers.Set(kUidO, params.o);
  // Ragged statistics lie as lse does; dense ones, and those that nobody wants, go elsewhere first.
  const bool in_place = problem.ragged && params.lse != nullptr;
  auto* statistics = in_place ? params.lse : At<float>(workspace, layout.statistics);
  pointers.Set(kUidLse, statistics);
  RETURN_IF_ERROR(
      ExecuteCudnnPlan(*plan, handle.get(), pointers.data(), At<void>(workspace, layout.plan)));
  if (in_place || params.lse == nullptr) return absl::OkStatus();
  return ToStatus(
      LaunchStatisticsFromCudnn(
          statistics, StatisticsOrder(problem, layout, params.num_tokens, params.num_heads),
          params.lse, handle.stream()),
      "LaunchStatisticsFromCudnn");
}

absl::StatusOr<int64_t> CudnnAttention::FindSlices(const AttentionBackwardParams& params,
                                                   int64_t workspace_bytes, CudnnHandle& handle) {
  absl::Status refusal;
  const int64_t most = options_.deterministic ? params.num_kv_heads : 1;
  for (int64_t slices = 1; slices <= most; ++slices) {
    if (params.num_kv_heads % slices != 0) continue;
    const CudnnAttentionProblem problem = BackwardProblem(params, options_.deterministic, slices);
    const CudnnAttentionLayout layout(problem, params.num_tokens, slices);
    refusal = FindPlan(problem, workspace_bytes - layout.plan, handle).status();
    if (refusal.ok()) return slices;
  }
  return refusal;
}

absl::Status CudnnAttention::Backward(const AttentionBackwardParams& params, int64_t max_seqlen,
                                      const CudnnWorkspace& workspace, CudnnHandle& handle) {
  if (params.num_tokens == 0) return absl::OkStatus();
  RETURN_IF_ERROR(Supports(params));
  if (!IsDense(params.num_tokens, params.num_sequences, max_seqlen)) {
    return absl::UnimplementedError(
        "cuDNN attention: the backward pass takes sequences of one length, a multiple of 128");
  }
  const absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(const int64_t slices, FindSlices(params, workspace.bytes, handle));
  const CudnnAttentionProblem problem = BackwardProblem(params, options_.deterministic, slices);
  const CudnnAttentionLayout layout(problem, params.num_tokens, slices);
  ASSIGN_OR_RETURN(const CudnnPlan* plan, FindPlan(problem, workspace.bytes - layout.plan, handle));

  auto* statistics = At<float>(workspace, layout.statistics);
  RETURN_IF_ERROR(ToStatus(
      LaunchStatisticsToCudnn(params.lse,
                              StatisticsOrder(problem, layout, params.num_tokens, params.num_heads),
                              statistics, handle.stream()),
      "LaunchStatisticsToCudnn"));
  Scalars scalars{.scale = params.scale};
  Pointers pointers(scalars);
  pointers.Set(kUidDelta, At<float>(workspace, layout.delta));
  pointers.Set(kUidDqSum, At<float>(workspace, layout.dq_sum));
  for (int64_t slice = 0; slice < slices; ++slice) {
    SetSlice(params, problem, slice, pointers);
    pointers.Set(kUidLse, statistics + slice * layout.statistics_slice);
    RETURN_IF_ERROR(
        ExecuteCudnnPlan(*plan, handle.get(), pointers.data(), At<void>(workspace, layout.plan)));
  }
  return absl::OkStatus();
}

}  // namespace lorad::cuda
