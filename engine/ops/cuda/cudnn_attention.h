// Attention through cuDNN's fused kernels, where the library is installed and the GPU is one of
// those on which they beat lorad's own: formulas in engine/ops/attention.h. On an H200 (32 query, 8
// key heads of 128, causal), forward and backward with dq summed in no fixed order: 526 and 393
// TFLOP/s at 4 x 2048 tokens, 621 and 493 at 8192.
#ifndef LORAD_ENGINE_OPS_CUDA_CUDNN_ATTENTION_H_
#define LORAD_ENGINE_OPS_CUDA_CUDNN_ATTENTION_H_

#include <cstdint>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/cudnn_attention_graph.h"
#include "engine/ops/cuda/cudnn_graph.h"
#include "engine/ops/cuda/cudnn_library.h"

namespace lorad::cuda {

struct CudnnAttentionOptions {
  // The same inputs give the same gradients, bit for bit. That costs a backward pass the matrix of
  // its scores in memory, 2 bytes for each, and the time to write and read it.
  bool deterministic = true;
  // What a deterministic backward pass may take of it at once, in bytes: where all heads need more,
  // they run in parts, one after another, a key head and its group at least. Up to twice as much
  // where one part needs it: a sequence of 8192 tokens takes 128 MiB a head.
  int64_t score_workspace_bytes = int64_t{1} << 28;

  // LORAD_NONDETERMINISTIC_ATTENTION=1 lifts determinism, to measure what it costs.
  static CudnnAttentionOptions FromEnvironment();
};

// Device memory that a call may use, aligned to 256 bytes; free again once what the call queued is
// done.
struct CudnnWorkspace {
  void* data = nullptr;
  int64_t bytes = 0;
};

// Thread-safe; calls queue one at a time, since cuDNN's plans may not be executed by two threads at
// once. Execution plans are kept: the first call of a shape takes up to a second, the first one of
// another size of such a shape 50 ms, later ones microseconds.
class CudnnAttention {
 public:
  // kUnavailable: there is no usable cuDNN, and why. kUnimplemented: not for this GPU.
  static absl::StatusOr<std::unique_ptr<CudnnAttention>> Create(
      int device, const CudnnAttentionOptions& options);

  // Whether the call may be made at all, by its sizes, strides and alignment: head_dim a multiple
  // of 16 up to 256, pointers aligned to 16 bytes (null ones count as aligned), strides multiples
  // of 8, fewer than 2^31 elements from the first token to the last. kUnimplemented says what is
  // against it. OK is no promise: Forward and Backward still return kUnimplemented, with nothing
  // queued, where cuDNN has no engine or the workspace is too small for it, and Backward for the
  // sequences that it does not take.
  absl::Status Supports(const AttentionForwardParams& params) const;
  absl::Status Supports(const AttentionBackwardParams& params) const;

  // Enough for any sequences of params.num_tokens tokens in all that the pass takes: forward, at
  // most params.num_sequences of them; backward, none longer than `max_seqlen` (0: num_tokens).
  // Grows with each of these. Neither pointers nor strides are read.
  int64_t WorkspaceBytes(const AttentionForwardParams& params) const;
  int64_t WorkspaceBytes(const AttentionBackwardParams& params, int64_t max_seqlen) const;

  // Queues the pass on the handle's stream. `max_seqlen`: no sequence is longer; 0: num_tokens.
  // params.workspace is not used. Backward takes sequences of one length alone, a multiple of 128:
  // graphs for others, found by ragged offsets, were tried on an H100 with cuDNN 9 and gave wrong
  // gradients. REQUIRES: the handle is of this object's device.
  absl::Status Forward(const AttentionForwardParams& params, int64_t max_seqlen,
                       const CudnnWorkspace& workspace, CudnnHandle& handle);
  absl::Status Backward(const AttentionBackwardParams& params, int64_t max_seqlen,
                        const CudnnWorkspace& workspace, CudnnHandle& handle);

 private:
  CudnnAttention(const CudnnLibrary& library, const CudnnAttentionOptions& options)
      : library_(library), options_(options) {}

  // The plan of a problem, made at the first call. kUnimplemented: there is none, or it needs more
  // than `room` bytes.
  absl::StatusOr<const CudnnPlan*> FindPlan(const CudnnAttentionProblem& problem, int64_t room,
                                            CudnnHandle& handle)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<CudnnPlan> MakePlan(const CudnnAttentionProblem& problem,
                                     CudnnHandle& handle) const;
  // The number of parts that the heads have to run in for this workspace.
  absl::StatusOr<int64_t> FindSlices(const AttentionBackwardParams& params, int64_t workspace_bytes,
                                     CudnnHandle& handle) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const CudnnLibrary& library_;
  const CudnnAttentionOptions options_;
  absl::Mutex mutex_;
  // Failures too: trying again would take as long.
  std::map<CudnnAttentionProblem, absl::StatusOr<CudnnPlan>> plans_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_CUDNN_ATTENTION_H_
