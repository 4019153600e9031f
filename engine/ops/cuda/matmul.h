// Matrix products through cuBLASLt.
#ifndef LORAD_ENGINE_OPS_CUDA_MATMUL_H_
#define LORAD_ENGINE_OPS_CUDA_MATMUL_H_

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/core/dtype.h"

namespace lorad::cuda {

// What cuBLASLt's algorithms for Hopper are tuned for.
inline constexpr size_t kMatmulWorkspaceBytes = 32 << 20;

// The stream that an op runs on, and cuBLASLt's scratch there, which two streams must not share.
struct LinearScratch {
  cudaStream_t stream = nullptr;
  void* lt_workspace = nullptr;  // device memory, aligned to 256 bytes
  size_t lt_workspace_bytes = 0;
  uint32_t* counters = nullptr;  // [kRowProductCounters], zeros between kernels; null: none
};

// d = alpha * op(a) op(b) + beta * c, all row-major, in fp32. op(a) is [m, k], op(b) [k, n];
// strides are elements from row to row as stored.
struct MatmulArgs {
  int64_t m = 0, n = 0, k = 0;  // k > 0
  const BFloat16* a = nullptr;
  int64_t a_stride = 0;
  bool transpose_a = false;  // a is stored [k, m]
  const BFloat16* b = nullptr;
  int64_t b_stride = 0;
  bool transpose_b = false;  // b is stored [n, k]
  void* d = nullptr;         // may not overlap a or b
  int64_t d_stride = 0;
  DType d_dtype = DType::kBF16;  // or kF32; c has the same
  const void* c = nullptr;       // null: d, which is not read where beta is 0
  int64_t c_stride = 0;
  float alpha = 1, beta = 0;
};

// Chooses an algorithm by cuBLASLt's heuristics for each kind of product, and keeps the choice.
// Sums are split in ways that have a fixed order, so the same operands give the same bits.
// Thread-safe.
class Matmul {
 public:
  // For the current device.
  static absl::StatusOr<std::unique_ptr<Matmul>> Create();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;
  ~Matmul();

  // Nothing is queued for m or n of 0.
  absl::Status Run(const MatmulArgs& args, const LinearScratch& scratch);

 private:
  struct Plan;
  // All that the choice depends on.
  struct Key {
    int64_t m, n, k, a_stride, b_stride, c_stride, d_stride;
    bool transpose_a, transpose_b, d_is_f32;
    uint32_t a_align, b_align, c_align, d_align;
    size_t workspace_bytes;
    auto operator<=>(const Key&) const = default;
  };

  explicit Matmul(cublasLtHandle_t handle) : handle_(handle) {}
  absl::StatusOr<std::shared_ptr<Plan>> FindPlan(const Key& key);
  absl::StatusOr<std::shared_ptr<Plan>> MakePlan(const Key& key) const;

  const cublasLtHandle_t handle_;  // owned
  absl::Mutex mutex_;
  std::map<Key, std::shared_ptr<Plan>> plans_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_MATMUL_H_
