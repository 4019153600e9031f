#include "engine/ops/cuda/matmul.h"

#include <bit>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"

namespace lorad::cuda {
namespace {

// Above it all are forgotten: batches of every number of tokens would fill host memory.
constexpr size_t kMaxPlans = 8192;
// The widest access of a kernel. Kernels that want more find it in the strides.
constexpr uintptr_t kMaxAlign = 16;

absl::Status ToStatus(cublasStatus_t status, absl::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", cublasLtGetStatusName(status));
  return status == CUBLAS_STATUS_ALLOC_FAILED ? absl::ResourceExhaustedError(message)
                                              : absl::InternalError(message);
}

uint32_t AlignOf(const void* pointer) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(pointer) | kMaxAlign;
  return uint32_t{1} << std::countr_zero(bits);
}

template <typename T>
absl::Status Set(cublasLtMatmulDescOpaque_t& op, cublasLtMatmulDescAttributes_t attribute,
                 const T& value) {
  return ToStatus(cublasLtMatmulDescSetAttribute(&op, attribute, &value, sizeof(value)),
                  "cublasLtMatmulDescSetAttribute");
}

template <typename T>
absl::Status Set(cublasLtMatmulPreferenceOpaque_t& preference,
                 cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  return ToStatus(
      cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)),
      "cublasLtMatmulPreferenceSetAttribute");
}

// A row-major [rows, columns] as the column-major [columns, rows] that it also is.
absl::Status InitLayout(cublasLtMatrixLayoutOpaque_t& layout, bool is_f32, int64_t rows,
                        int64_t columns, int64_t stride) {
  return ToStatus(
      cublasLtMatrixLayoutInit(&layout, is_f32 ? CUDA_R_32F : CUDA_R_16BF,
                               static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), stride),
      "cublasLtMatrixLayoutInit");
}

}  // namespace

// cuBLASLt is column-major. It computes d^T = op(b)^T op(a)^T, so its A is b and its B is a.
// Nothing changes once made: cuBLASLt, which takes no pointers to const, only reads.
struct Matmul::Plan {
  cublasLtMatmulDescOpaque_t op = {};
  cublasLtMatrixLayoutOpaque_t a = {}, b = {}, c = {}, d = {};
  cublasLtMatmulAlgo_t algorithm = {};
  size_t workspace_bytes = 0;
};

absl::StatusOr<std::unique_ptr<Matmul>> Matmul::Create() {
  cublasLtHandle_t handle = nullptr;
  RETURN_IF_ERROR(ToStatus(cublasLtCreate(&handle), "cublasLtCreate"));
  return std::unique_ptr<Matmul>(new Matmul(handle));
}

Matmul::~Matmul() {
  const cublasStatus_t status = cublasLtDestroy(handle_);
  if (status != CUBLAS_STATUS_SUCCESS) {
    std::fprintf(stderr, "cublasLtDestroy: %s\n", cublasLtGetStatusName(status));
  }
}

absl::Status Matmul::Run(const MatmulArgs& args, const LinearScratch& scratch) {
  if (args.m == 0 || args.n == 0) return absl::OkStatus();
  LORAD_CHECK(args.k > 0 && (args.d_dtype == DType::kBF16 || args.d_dtype == DType::kF32));
  const void* c = args.c == nullptr ? args.d : args.c;
  const int64_t c_stride = args.c == nullptr ? args.d_stride : args.c_stride;
  const Key key = {.m = args.m,
                   .n = args.n,
                   .k = args.k,
                   .a_stride = args.a_stride,
                   .b_stride = args.b_stride,
                   .c_stride = c_stride,
                   .d_stride = args.d_stride,
                   .transpose_a = args.transpose_a,
                   .transpose_b = args.transpose_b,
                   .d_is_f32 = args.d_dtype == DType::kF32,
                   .a_align = AlignOf(args.a),
                   .b_align = AlignOf(args.b),
                   .c_align = AlignOf(c),
                   .d_align = AlignOf(args.d),
                   .workspace_bytes = scratch.lt_workspace_bytes};
  ASSIGN_OR_RETURN(const std::shared_ptr<Plan> plan, FindPlan(key));
  return ToStatus(
      cublasLtMatmul(handle_, &plan->op, &args.alpha, args.b, &plan->b, args.a, &plan->a,
                     &args.beta, c, &plan->c, args.d, &plan->d, &plan->algorithm,
                     scratch.lt_workspace, plan->workspace_bytes, scratch.stream),
      "cublasLtMatmul");
}

absl::StatusOr<std::shared_ptr<Matmul::Plan>> Matmul::FindPlan(const Key& key) {
  absl::MutexLock lock(&mutex_);
  if (const auto found = plans_.find(key); found != plans_.end()) return found->second;
  ASSIGN_OR_RETURN(std::shared_ptr<Plan> plan, MakePlan(key));
  if (plans_.size() >= kMaxPlans) plans_.clear();
  plans_.emplace(key, plan);
  return plan;
}

absl::StatusOr<std::shared_ptr<Matmul::Plan>> Matmul::MakePlan(const Key& key) const {
  auto plan = std::make_shared<Plan>();
  RETURN_IF_ERROR(ToStatus(cublasLtMatmulDescInit(&plan->op, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                           "cublasLtMatmulDescInit"));
  const auto op = [](bool transpose) { return transpose ? CUBLAS_OP_T : CUBLAS_OP_N; };
  RETURN_IF_ERROR(Set(plan->op, CUBLASLT_MATMUL_DESC_TRANSA, op(key.transpose_b)));
  RETURN_IF_ERROR(Set(plan->op, CUBLASLT_MATMUL_DESC_TRANSB, op(key.transpose_a)));
  const auto stored = [&](cublasLtMatrixLayoutOpaque_t& layout, bool transpose, int64_t rows,
                          int64_t columns, int64_t stride) {
    if (transpose) std::swap(rows, columns);
    return InitLayout(layout, /*is_f32=*/false, rows, columns, stride);
  };
  RETURN_IF_ERROR(stored(plan->a, key.transpose_a, key.m, key.k, key.a_stride));
  RETURN_IF_ERROR(stored(plan->b, key.transpose_b, key.k, key.n, key.b_stride));
  RETURN_IF_ERROR(InitLayout(plan->c, key.d_is_f32, key.m, key.n, key.c_stride));
  RETURN_IF_ERROR(InitLayout(plan->d, key.d_is_f32, key.m, key.n, key.d_stride));

  cublasLtMatmulPreferenceOpaque_t preference;
  RETURN_IF_ERROR(
      ToStatus(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit"));
  RETURN_IF_ERROR(
      Set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{key.workspace_bytes}));
  // Partial sums go through the workspace in fp32 and are added in order.
  RETURN_IF_ERROR(Set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                      uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE}));
  RETURN_IF_ERROR(Set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_align));
  RETURN_IF_ERROR(Set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_align));
  RETURN_IF_ERROR(Set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c_align));
  RETURN_IF_ERROR(Set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.d_align));

  cublasLtMatmulHeuristicResult_t result = {};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, &plan->op, &plan->b, &plan->a, &plan->c, &plan->d,
                                     &preference, /*requestedAlgoCount=*/1, &result, &found);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0 || result.state != CUBLAS_STATUS_SUCCESS) {
    return absl::InternalError(absl::StrCat("cuBLASLt has no algorithm for [", key.m, ", ", key.k,
                                            "] x [", key.k, ", ", key.n,
                                            "]: ", cublasLtGetStatusName(status)));
  }
  plan->algorithm = result.algo;
  plan->workspace_bytes = result.workspaceSize;
  return plan;
}

}  // namespace lorad::cuda
