// What is arithmetic in attention through cuDNN: which graph a batch of sequences runs as, and how
// the caller's workspace is divided.
#ifndef LORAD_ENGINE_OPS_CUDA_CUDNN_ATTENTION_LAYOUT_H_
#define LORAD_ENGINE_OPS_CUDA_CUDNN_ATTENTION_LAYOUT_H_

#include <cstdint>

#include "engine/ops/cuda/attention.h"
#include "engine/ops/cuda/cudnn_attention_graph.h"

namespace lorad::cuda {

// The next power of two.
int64_t SequenceCountBucket(int64_t sequences);
// The next of 128, 256, 384, 512, 768, 1024, 1536, ...: powers of two and the numbers halfway.
int64_t SequenceLengthBucket(int64_t tokens);

// Whether all sequences have one length, and that is a multiple of 128 (others need a mask before
// 9.16): what the dense graphs take. `max_seqlen`: no sequence is longer; 0: num_tokens.
bool IsDense(int64_t num_tokens, int64_t num_sequences, int64_t max_seqlen);

// The graph of a call. What is not dense runs ragged, in buckets of sequences and lengths, so that
// packed batches share few plans.
CudnnAttentionProblem ForwardProblem(const AttentionForwardParams& params, int64_t max_seqlen);
// One of `slices` equal parts of the heads. REQUIRES: the sequences are dense; slices divides
// num_kv_heads.
CudnnAttentionProblem BackwardProblem(const AttentionBackwardParams& params, bool deterministic,
                                      int64_t slices);

// Scores that a deterministic backward pass holds at once, in bf16: what its plan needs at least.
// 0 for any other problem.
int64_t ScoreBytes(const CudnnAttentionProblem& problem);

// Where in a workspace the parts of a call lie: bytes from its beginning, aligned to 256. Absent
// parts take none.
struct CudnnAttentionLayout {
  // REQUIRES: the problem is one of `slices`, which run one after another.
  CudnnAttentionLayout(const CudnnAttentionProblem& problem, int64_t num_tokens, int64_t slices);

  int64_t statistics = 0;        // lse in cuDNN's order, of all slices
  int64_t statistics_slice = 0;  // floats from one slice's to the next one's
  int64_t lengths = 0;
  int64_t offsets = 0;        // kNumRaggedTensors arrays
  int64_t offsets_pitch = 0;  // int32 numbers from one array to the next
  int64_t delta = 0;          // of a slice, as all that follow
  int64_t dq_sum = 0;         // f32
  int64_t plan = 0;           // cuDNN's own workspace, from here to the end
};

// Enough for any sequences of params.num_tokens tokens in all, at most params.num_sequences of
// them; grows with both. Neither pointers nor strides are read.
int64_t CudnnForwardWorkspaceBytes(const AttentionForwardParams& params);
// Enough for any dense sequences of params.num_tokens tokens in all, none longer than `max_seqlen`
// (0: num_tokens); grows with both. `score_bytes` is what scores may take where they do not all fit
// at once; up to twice as much where one key head and its group need it.
int64_t CudnnBackwardWorkspaceBytes(const AttentionBackwardParams& params, int64_t max_seqlen,
                                    bool deterministic, int64_t score_bytes);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_CUDNN_ATTENTION_LAYOUT_H_
