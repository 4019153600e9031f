#include "engine/ops/cuda/cudnn_graph.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"

namespace lorad::cuda {
namespace {

constexpr int64_t kAlignmentBytes = 16;

}  // namespace

CudnnDescriptor::CudnnDescriptor(const CudnnLibrary& library, cudnnBackendDescriptorType_t type)
    : library_(&library), type_(type) {
  status_ = library.Check(library.create_descriptor(type, &descriptor_),
                          absl::StrCat("creating a descriptor of type ", static_cast<int>(type)));
}

CudnnDescriptor& CudnnDescriptor::operator=(CudnnDescriptor&& other) noexcept {
  std::swap(library_, other.library_);
  std::swap(type_, other.type_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(status_, other.status_);
  return *this;
}

CudnnDescriptor::~CudnnDescriptor() {
  if (descriptor_ != nullptr) library_->destroy_descriptor(descriptor_);
}

CudnnDescriptor& CudnnDescriptor::SetArray(cudnnBackendAttributeName_t name,
                                           cudnnBackendAttributeType_t type, int64_t count,
                                           const void* values) {
  if (!status_.ok()) return *this;
  const cudnnStatus_t status = library_->set_attribute(descriptor_, name, type, count, values);
  if (status != CUDNN_STATUS_SUCCESS) {
    status_ =
        library_->Check(status, absl::StrCat("setting attribute ", static_cast<int>(name),
                                             " of a descriptor of type ", static_cast<int>(type_)));
  }
  return *this;
}

CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, int64_t value) {
  return SetArray(name, CUDNN_TYPE_INT64, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, bool value) {
  return SetArray(name, CUDNN_TYPE_BOOLEAN, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, double value) {
  return SetArray(name, CUDNN_TYPE_DOUBLE, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, cudnnDataType_t value) {
  return SetArray(name, CUDNN_TYPE_DATA_TYPE, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name,
                                      cudnnPointwiseMode_t value) {
  return SetArray(name, CUDNN_TYPE_POINTWISE_MODE, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name,
                                      cudnnReduceTensorOp_t value) {
  return SetArray(name, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name,
                                      cudnnBackendHeurMode_t value) {
  return SetArray(name, CUDNN_TYPE_HEUR_MODE, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name, cudnnHandle_t value) {
  return SetArray(name, CUDNN_TYPE_HANDLE, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name,
                                      cudnnBackendDescriptor_t value) {
  return SetArray(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}
CudnnDescriptor& CudnnDescriptor::Set(cudnnBackendAttributeName_t name,
                                      const CudnnDescriptor& value) {
  if (status_.ok()) status_ = value.status();
  return Set(name, value.get());
}

CudnnDescriptor& CudnnDescriptor::Finalize() {
  if (!status_.ok()) return *this;
  const cudnnStatus_t status = library_->finalize(descriptor_);
  if (status != CUDNN_STATUS_SUCCESS) {
    status_ = library_->Check(
        status, absl::StrCat("finalizing a descriptor of type ", static_cast<int>(type_)));
  }
  return *this;
}

cudnnBackendDescriptor_t CudnnGraph::Keep(CudnnDescriptor descriptor) {
  status_.Update(descriptor.status());
  if (!status_.ok()) return nullptr;
  descriptors_.push_back(std::move(descriptor));
  return descriptors_.back().get();
}

void CudnnGraph::KeepOperation(CudnnDescriptor operation) {
  const cudnnBackendDescriptor_t kept = Keep(std::move(operation));
  if (kept != nullptr) operations_.push_back(kept);
}

CudnnTensor CudnnGraph::AddTensor(const TensorSpec& spec) {
  if (!status_.ok()) return {nullptr, spec.dims, spec.strides};
  CudnnDescriptor tensor(library_, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  tensor.Set(CUDNN_ATTR_TENSOR_UNIQUE_ID, spec.uid)
      .Set(CUDNN_ATTR_TENSOR_DATA_TYPE, spec.type)
      .SetArray(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, spec.dims.data())
      .SetArray(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, spec.strides.data())
      .Set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignmentBytes)
      .Set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, spec.is_virtual);
  if (spec.by_value) tensor.Set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, true);
  if (spec.ragged_offsets != nullptr) {
    tensor.Set(CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, spec.ragged_offsets->descriptor);
  }
  tensor.Finalize();
  if (!spec.is_virtual) uids_.push_back(spec.uid);
  return {Keep(std::move(tensor)), spec.dims, spec.strides};
}

CudnnTensor CudnnGraph::Real(int64_t uid, cudnnDataType_t type, const CudnnDims& dims,
                             const CudnnDims& strides, const CudnnTensor* ragged_offsets) {
  return AddTensor({.uid = uid,
                    .type = type,
                    .dims = dims,
                    .strides = strides,
                    .ragged_offsets = ragged_offsets});
}

CudnnTensor CudnnGraph::Scalar(int64_t uid) {
  return AddTensor({.uid = uid,
                    .type = CUDNN_DATA_FLOAT,
                    .dims = {1, 1, 1, 1},
                    .strides = {1, 1, 1, 1},
                    .by_value = true});
}

CudnnTensor CudnnGraph::Virtual(cudnnDataType_t type, const CudnnDims& dims,
                                const CudnnDims& strides) {
  return AddTensor({.uid = next_virtual_uid_++,
                    .type = type,
                    .dims = dims,
                    .strides = strides,
                    .is_virtual = true});
}

void CudnnGraph::AddPointwise(const PointwiseSpec& spec) {
  if (!status_.ok()) return;
  CudnnDescriptor math(library_, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  math.Set(CUDNN_ATTR_POINTWISE_MODE, spec.mode).Set(CUDNN_ATTR_POINTWISE_MATH_PREC, spec.math);
  if (spec.axis >= 0) math.Set(CUDNN_ATTR_POINTWISE_AXIS, spec.axis);
  math.Finalize();
  CudnnDescriptor operation(library_, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, math)
      .Set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, spec.x->descriptor);
  if (spec.b != nullptr) operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, spec.b->descriptor);
  if (spec.t != nullptr) operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, spec.t->descriptor);
  operation.Set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, spec.y->descriptor).Finalize();
  Keep(std::move(math));
  KeepOperation(std::move(operation));
}

void CudnnGraph::PointwiseTo(cudnnPointwiseMode_t mode, const CudnnTensor& x,
                             const CudnnTensor& y) {
  AddPointwise({.mode = mode, .x = &x, .y = &y});
}

void CudnnGraph::PointwiseTo(cudnnPointwiseMode_t mode, const CudnnTensor& x, const CudnnTensor& b,
                             const CudnnTensor& y) {
  AddPointwise({.mode = mode, .x = &x, .b = &b, .y = &y});
}

CudnnTensor CudnnGraph::Pointwise(cudnnPointwiseMode_t mode, const CudnnTensor& x) {
  const CudnnTensor y = Virtual(CUDNN_DATA_FLOAT, x.dims, x.strides);
  PointwiseTo(mode, x, y);
  return y;
}

CudnnTensor CudnnGraph::Pointwise(cudnnPointwiseMode_t mode, const CudnnTensor& x,
                                  const CudnnTensor& b) {
  const CudnnTensor y = Virtual(CUDNN_DATA_FLOAT, x.dims, x.strides);
  PointwiseTo(mode, x, b, y);
  return y;
}

CudnnTensor CudnnGraph::Logical(cudnnPointwiseMode_t mode, const CudnnTensor& x,
                                const CudnnTensor& b) {
  const CudnnTensor y = Virtual(CUDNN_DATA_BOOLEAN, x.dims, x.strides);
  AddPointwise({.mode = mode, .math = CUDNN_DATA_BOOLEAN, .x = &x, .b = &b, .y = &y});
  return y;
}

CudnnTensor CudnnGraph::Select(const CudnnTensor& mask, const CudnnTensor& x,
                               const CudnnTensor& otherwise) {
  const CudnnTensor y = Virtual(CUDNN_DATA_FLOAT, x.dims, x.strides);
  AddPointwise(
      {.mode = CUDNN_POINTWISE_BINARY_SELECT, .x = &x, .b = &otherwise, .t = &mask, .y = &y});
  return y;
}

CudnnTensor CudnnGraph::Index(const CudnnTensor& x, int64_t axis, cudnnDataType_t math) {
  const CudnnTensor y = Virtual(CUDNN_DATA_INT32, x.dims, x.strides);
  AddPointwise({.mode = CUDNN_POINTWISE_GEN_INDEX, .math = math, .axis = axis, .x = &x, .y = &y});
  return y;
}

void CudnnGraph::Matmul(const CudnnTensor& a, const CudnnTensor& b, const CudnnTensor& c,
                        const CudnnMatmulLengths& lengths) {
  if (!status_.ok()) return;
  CudnnDescriptor math(library_, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  math.Set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  if (lengths.pad_with_zero) math.Set(CUDNN_ATTR_MATMUL_PADDING_VALUE, 0.0);
  math.Finalize();
  CudnnDescriptor operation(library_, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, a.descriptor)
      .Set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, b.descriptor)
      .Set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, c.descriptor)
      .Set(CUDNN_ATTR_OPERATION_MATMUL_DESC, math);
  const std::pair<cudnnBackendAttributeName_t, const CudnnTensor*> overrides[] = {
      {CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, lengths.m},
      {CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, lengths.n},
      {CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, lengths.k}};
  for (const auto& [name, tensor] : overrides) {
    if (tensor != nullptr) operation.Set(name, tensor->descriptor);
  }
  operation.Finalize();
  Keep(std::move(math));
  KeepOperation(std::move(operation));
}

void CudnnGraph::Reduce(cudnnReduceTensorOp_t op, const CudnnTensor& x, const CudnnTensor& y) {
  if (!status_.ok()) return;
  CudnnDescriptor math(library_, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  math.Set(CUDNN_ATTR_REDUCTION_OPERATOR, op)
      .Set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT)
      .Finalize();
  CudnnDescriptor operation(library_, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, math)
      .Set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x.descriptor)
      .Set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y.descriptor)
      .Finalize();
  Keep(std::move(math));
  KeepOperation(std::move(operation));
}

void CudnnGraph::Reshape(const CudnnTensor& x, const CudnnTensor& y) {
  if (!status_.ok()) return;
  CudnnDescriptor operation(library_, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  operation.Set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x.descriptor)
      .Set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y.descriptor)
      .Finalize();
  KeepOperation(std::move(operation));
}

absl::Status CudnnGraph::Finalize(cudnnHandle_t handle) {
  if (!status_.ok()) return status_;
  CudnnDescriptor graph(library_, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.SetArray(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                 static_cast<int64_t>(operations_.size()), operations_.data());
  if (handle != nullptr) graph.Set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle);
  graph.Finalize();
  RETURN_IF_ERROR(graph.status());
  graph_ = std::move(graph);
  return absl::OkStatus();
}

namespace {

// The engine configurations that the heuristics propose, best first.
absl::StatusOr<std::vector<CudnnDescriptor>> Configurations(const CudnnLibrary& library,
                                                            const CudnnDescriptor& heuristics) {
  int64_t count = 0;
  RETURN_IF_ERROR(
      library.Check(library.get_attribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                          CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &count, nullptr),
                    "counting engine configurations"));
  // cuDNN fills descriptors that exist.
  std::vector<CudnnDescriptor> owners;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int64_t i = 0; i < count; ++i) {
    owners.emplace_back(library, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    RETURN_IF_ERROR(owners.back().status());
    raw.push_back(owners.back().get());
  }
  if (count == 0) return owners;
  int64_t filled = 0;
  RETURN_IF_ERROR(library.Check(
      library.get_attribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                            CUDNN_TYPE_BACKEND_DESCRIPTOR, count, &filled, raw.data()),
      "reading engine configurations"));
  owners.resize(std::min(filled, count));
  return owners;
}

}  // namespace

absl::StatusOr<CudnnPlan> MakeCudnnPlan(std::unique_ptr<CudnnGraph> graph, cudnnHandle_t handle) {
  const CudnnLibrary& library = graph->library();
  CudnnDescriptor heuristics(library, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.Set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph->descriptor())
      .Set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_HEUR_MODE_A)
      .Finalize();
  RETURN_IF_ERROR(heuristics.status());
  ASSIGN_OR_RETURN(std::vector<CudnnDescriptor> configs, Configurations(library, heuristics));
  absl::Status refusal = absl::UnimplementedError("cuDNN knows no engine for this graph");
  for (CudnnDescriptor& config : configs) {
    CudnnPlan made;
    made.plan = CudnnDescriptor(library, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    made.plan.Set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config)
        .Set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle)
        .Finalize();
    if (!made.plan.status().ok()) {
      refusal = made.plan.status();
      continue;
    }
    int64_t count = 0;
    RETURN_IF_ERROR(library.Check(
        library.get_attribute(made.plan.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                              CUDNN_TYPE_INT64, 1, &count, &made.workspace_bytes),
        "reading a plan's workspace"));
    made.graph = std::move(graph);
    made.sources.push_back(std::move(heuristics));
    made.sources.push_back(std::move(config));
    return made;
  }
  return refusal;
}

absl::Status ExecuteCudnnPlan(const CudnnPlan& plan, cudnnHandle_t handle, void* const* pointers,
                              void* workspace) {
  const CudnnLibrary& library = plan.graph->library();
  const std::vector<int64_t>& uids = plan.graph->uids();
  std::vector<void*> values(uids.size());
  for (size_t i = 0; i < uids.size(); ++i) values[i] = pointers[uids[i]];
  const auto count = static_cast<int64_t>(uids.size());
  CudnnDescriptor pack(library, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.SetArray(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, uids.data())
      .SetArray(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, values.data())
      .SetArray(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace)
      .Finalize();
  RETURN_IF_ERROR(pack.status());
  return library.Check(library.execute(handle, plan.plan.get(), pack.get()), "executing a plan");
}

}  // namespace lorad::cuda
