// Launchers of the memory-bound kernels: norms, rotary embedding, SwiGLU, row copies, softmax with
// cross-entropy. Activations are bf16, arithmetic is fp32; the same inputs give the same bits.
//
// A row of a [rows, n] tensor begins `stride` elements after the row before it, stride >= n; what
// lies between rows is neither read nor written. Pointers aligned to 16 bytes, and strides and n
// that are multiples of 8, take 16-byte accesses; anything else is correct, and slower. Nothing is
// launched for zero elements. Formulas and aliasing: the headers in engine/ops.
#ifndef LORAD_ENGINE_OPS_CUDA_ELEMENTWISE_H_
#define LORAD_ENGINE_OPS_CUDA_ELEMENTWISE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "engine/core/dtype.h"

namespace lorad::cuda {

// y = x * inv_rms * gamma. gamma [hidden]; inv_rms [rows], or null. y may be x.
cudaError_t LaunchRmsNorm(const BFloat16* x, int64_t x_stride, const float* gamma, BFloat16* y,
                          int64_t y_stride, float* inv_rms, int64_t rows, int64_t hidden, float eps,
                          cudaStream_t stream);

// dx (+)= the gradient for x. dx may be dy unless `accumulate`.
cudaError_t LaunchRmsNormBackward(const BFloat16* dy, int64_t dy_stride, const BFloat16* x,
                                  int64_t x_stride, const float* gamma, const float* inv_rms,
                                  BFloat16* dx, int64_t dx_stride, bool accumulate, int64_t rows,
                                  int64_t hidden, cudaStream_t stream);

// Rotates x [tokens, heads, head_dim] in place; the heads of a token lie side by side. positions
// [tokens], inv_freq [head_dim / 2]. head_dim is even and at most 512; cudaErrorInvalidValue
// otherwise.
cudaError_t LaunchRope(BFloat16* x, int64_t x_stride, const int32_t* positions,
                       const float* inv_freq, int64_t tokens, int64_t heads, int64_t head_dim,
                       bool inverse, cudaStream_t stream);

// out = silu(gate) * up. out may be gate or up.
cudaError_t LaunchSwiGlu(const BFloat16* gate, int64_t gate_stride, const BFloat16* up,
                         int64_t up_stride, BFloat16* out, int64_t out_stride, int64_t rows,
                         int64_t n, cudaStream_t stream);

// Each of dgate and dup may be dout, gate or up; they differ from each other.
cudaError_t LaunchSwiGluBackward(const BFloat16* dout, int64_t dout_stride, const BFloat16* gate,
                                 int64_t gate_stride, const BFloat16* up, int64_t up_stride,
                                 BFloat16* dgate, int64_t dgate_stride, BFloat16* dup,
                                 int64_t dup_stride, int64_t rows, int64_t n, cudaStream_t stream);

// out[t, :] = table[ids[t], :], table [vocab, hidden] dense.
cudaError_t LaunchEmbedding(const int32_t* ids, const BFloat16* table, BFloat16* out,
                            int64_t out_stride, int64_t tokens, int64_t hidden,
                            cudaStream_t stream);

// y = x, row by row; x and y do not overlap.
cudaError_t LaunchCopyRows(const BFloat16* x, int64_t x_stride, BFloat16* y, int64_t y_stride,
                           int64_t rows, int64_t n, cudaStream_t stream);

// y[r, :] += bias [n]
cudaError_t LaunchAddBias(BFloat16* y, int64_t y_stride, const float* bias, int64_t rows, int64_t n,
                          cudaStream_t stream);

// loss[r] = logsumexp(logits[r, :]) - logits[r, labels[r]]; with `gradient`, also
// logits[r, :] = grad_scale * (softmax(logits[r, :]) - onehot(labels[r])).
// Rows labelled kIgnoreLabel: loss 0, and zeros with `gradient`; no logits are read. labels [rows]
// in [0, vocab) otherwise; loss [rows]. A vocab that is no multiple of 8 costs nothing as long as
// the stride is one.
cudaError_t LaunchSoftmaxCrossEntropy(BFloat16* logits, const int32_t* labels, float* loss,
                                      float grad_scale, bool gradient, int64_t rows, int64_t vocab,
                                      int64_t stride, cudaStream_t stream);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_ELEMENTWISE_H_
