// The inner loops of attention over a run of cached keys and values that lie together.
#ifndef LORAD_ENGINE_OPS_CPU_PAGED_KERNELS_H_
#define LORAD_ENGINE_OPS_CPU_PAGED_KERNELS_H_

#include <cstdint>

#include "engine/core/dtype.h"

namespace lorad::cpu {

// scores[g * scores_stride + s] = q[g, :] . k[s, :]. q [group, head_dim]; key s at k + s * stride.
void KeyScores(const float* q, int64_t group, int64_t head_dim, const float* k, int64_t stride,
               int64_t keys, float* scores, int64_t scores_stride);
void KeyScores(const float* q, int64_t group, int64_t head_dim, const BFloat16* k, int64_t stride,
               int64_t keys, float* scores, int64_t scores_stride);
void KeyScores(const double* q, int64_t group, int64_t head_dim, const double* k, int64_t stride,
               int64_t keys, double* scores, int64_t scores_stride);
void KeyScores(const double* q, int64_t group, int64_t head_dim, const BFloat16* k, int64_t stride,
               int64_t keys, double* scores, int64_t scores_stride);

// out[g, :] += sum over s of weights[g * weights_stride + s] v[s, :], s ascending.
// out [group, head_dim]; value s at v + s * stride.
void AddValues(const float* weights, int64_t weights_stride, int64_t group, const float* v,
               int64_t stride, int64_t keys, int64_t head_dim, float* out);
void AddValues(const float* weights, int64_t weights_stride, int64_t group, const BFloat16* v,
               int64_t stride, int64_t keys, int64_t head_dim, float* out);
void AddValues(const double* weights, int64_t weights_stride, int64_t group, const double* v,
               int64_t stride, int64_t keys, int64_t head_dim, double* out);
void AddValues(const double* weights, int64_t weights_stride, int64_t group, const BFloat16* v,
               int64_t stride, int64_t keys, int64_t head_dim, double* out);

}  // namespace lorad::cpu

#endif  // LORAD_ENGINE_OPS_CPU_PAGED_KERNELS_H_
