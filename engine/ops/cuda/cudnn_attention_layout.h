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

// The graphs of a call. Sequences of one length run dense where that is a multiple of 128 (others
// need a mask before 9.16), in exact numbers; everything else runs ragged, in buckets of sequences
// and lengths, so that packed batches share few plans. `max_seqlen` 0: num_tokens.
CudnnAttentionProblem ForwardProblem(const AttentionForwardParams& params, int64_t max_seqlen);
// One of `slices` equal parts of the heads. Ragged gradients that cuDNN would give rows in
// accumulators as wide as theirs get dense rows instead, to be copied: dk and dv of a group, and dq
// where it is summed. REQUIRES: slices divides num_kv_heads.
CudnnAttentionProblem BackwardProblem(const AttentionBackwardParams& params, int64_t max_seqlen,
                                      bool deterministic, int64_t slices);

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
  int64_t offsets = 0;                 // kNumRaggedTensors arrays
  int64_t offsets_pitch = 0;           // int32 numbers from one array to the next
  int64_t delta = 0;                   // of a slice, as all that follow
  int64_t dq_sum = 0;                  // f32
  int64_t dq = 0, dk = 0, dv = 0;      // bf16, dense rows
  int64_t dk_heads = 0, dv_heads = 0;  // bf16
  int64_t plan = 0;                    // cuDNN's own workspace, from here to the end
};

// Enough for any sequences of `num_tokens` tokens in all, at most `num_sequences` of them; grows
// with both. `score_bytes` bounds what is set aside for ScoreBytes().
struct CudnnAttentionSizes {
  bool backward = false;
  bool deterministic = false;
  int64_t num_tokens = 0, num_sequences = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
};
int64_t CudnnWorkspaceBytes(const CudnnAttentionSizes& sizes, int64_t score_bytes);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_CUDNN_ATTENTION_LAYOUT_H_
