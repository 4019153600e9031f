// The part of cuDNN's backend graph API that attention needs: descriptors that free themselves, a
// builder of operation graphs, and execution plans. Errors stick: the first one stops everything
// after it and is what status() says, so a graph is written down without a check at each line.
#ifndef LORAD_ENGINE_OPS_CUDA_CUDNN_GRAPH_H_
#define LORAD_ENGINE_OPS_CUDA_CUDNN_GRAPH_H_

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/ops/cuda/cudnn_api.h"
#include "engine/ops/cuda/cudnn_library.h"

namespace lorad::cuda {

// Owns a backend descriptor. Move-only. A default-made or moved-from one is empty.
class CudnnDescriptor {
 public:
  CudnnDescriptor() = default;
  CudnnDescriptor(const CudnnLibrary& library, cudnnBackendDescriptorType_t type);
  CudnnDescriptor(CudnnDescriptor&& other) noexcept { *this = std::move(other); }
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept;
  ~CudnnDescriptor();

  // `type` describes the `count` values.
  CudnnDescriptor& SetArray(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                            int64_t count, const void* values);
  // One value; its C++ type tells the attribute type.
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, int64_t value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, bool value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, double value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, cudnnDataType_t value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, cudnnPointwiseMode_t value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, cudnnReduceTensorOp_t value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, cudnnBackendHeurMode_t value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, cudnnHandle_t value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value);
  CudnnDescriptor& Set(cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value);
  CudnnDescriptor& Finalize();

  cudnnBackendDescriptor_t get() const { return descriptor_; }
  const absl::Status& status() const { return status_; }

 private:
  const CudnnLibrary* library_ = nullptr;
  cudnnBackendDescriptorType_t type_{};
  cudnnBackendDescriptor_t descriptor_ = nullptr;
  absl::Status status_;
};

using CudnnDims = std::array<int64_t, 4>;

// A tensor of a graph, which owns its descriptor.
struct CudnnTensor {
  cudnnBackendDescriptor_t descriptor = nullptr;
  CudnnDims dims{};
  CudnnDims strides{};  // in elements
};

// Device-side lengths that replace M, N or K of a product, per batch entry; null: not replaced.
struct CudnnMatmulLengths {
  const CudnnTensor* m = nullptr;
  const CudnnTensor* n = nullptr;
  const CudnnTensor* k = nullptr;
  bool pad_with_zero = false;  // what lies beyond the lengths counts as 0
};

// Writes down an operation graph, then finalizes it. Not movable: tensors point into it.
class CudnnGraph {
 public:
  explicit CudnnGraph(const CudnnLibrary& library) : library_(library) {}
  CudnnGraph(const CudnnGraph&) = delete;
  CudnnGraph& operator=(const CudnnGraph&) = delete;

  // A tensor in device memory, aligned to 16 bytes, that execution finds by `uid`.
  // `ragged_offsets`: kInt32 [batch + 1, 1, 1, 1], where each batch entry starts, in elements.
  CudnnTensor Real(int64_t uid, cudnnDataType_t type, const CudnnDims& dims,
                   const CudnnDims& strides, const CudnnTensor* ragged_offsets = nullptr);
  // A float in host memory.
  CudnnTensor Scalar(int64_t uid);
  // An intermediate that need not exist in memory.
  CudnnTensor Virtual(cudnnDataType_t type, const CudnnDims& dims, const CudnnDims& strides);

  // y = mode(x) and y = mode(x, b): into a tensor, or a new virtual one shaped as x.
  void PointwiseTo(cudnnPointwiseMode_t mode, const CudnnTensor& x, const CudnnTensor& y);
  void PointwiseTo(cudnnPointwiseMode_t mode, const CudnnTensor& x, const CudnnTensor& b,
                   const CudnnTensor& y);
  CudnnTensor Pointwise(cudnnPointwiseMode_t mode, const CudnnTensor& x);
  CudnnTensor Pointwise(cudnnPointwiseMode_t mode, const CudnnTensor& x, const CudnnTensor& b);
  // mode(x, b) of booleans, or a comparison.
  CudnnTensor Logical(cudnnPointwiseMode_t mode, const CudnnTensor& x, const CudnnTensor& b);
  // mask ? x : otherwise
  CudnnTensor Select(const CudnnTensor& mask, const CudnnTensor& x, const CudnnTensor& otherwise);
  // The index along `axis` of each element of a tensor shaped as x, as kInt32 computed in `math`.
  CudnnTensor Index(const CudnnTensor& x, int64_t axis, cudnnDataType_t math);
  // c = a b
  void Matmul(const CudnnTensor& a, const CudnnTensor& b, const CudnnTensor& c,
              const CudnnMatmulLengths& lengths = {});
  // Reduces x over the dimensions in which y is smaller.
  void Reduce(cudnnReduceTensorOp_t op, const CudnnTensor& x, const CudnnTensor& y);
  void Reshape(const CudnnTensor& x, const CudnnTensor& y);

  // Ends the graph. Null `handle`: bound to no device, which checks the graph but gives no plan.
  absl::Status Finalize(cudnnHandle_t handle);

  const CudnnLibrary& library() const { return library_; }
  const CudnnDescriptor& descriptor() const { return graph_; }
  // The uids of real tensors and scalars: what an execution must bring pointers for.
  const std::vector<int64_t>& uids() const { return uids_; }

 private:
  struct TensorSpec {
    int64_t uid = 0;
    cudnnDataType_t type{};
    CudnnDims dims{}, strides{};
    bool is_virtual = false;
    bool by_value = false;
    const CudnnTensor* ragged_offsets = nullptr;
  };
  struct PointwiseSpec {
    cudnnPointwiseMode_t mode{};
    cudnnDataType_t math = CUDNN_DATA_FLOAT;
    int64_t axis = -1;  // of Index
    const CudnnTensor* x = nullptr;
    const CudnnTensor* b = nullptr;
    const CudnnTensor* t = nullptr;
    const CudnnTensor* y = nullptr;
  };
  CudnnTensor AddTensor(const TensorSpec& spec);
  void AddPointwise(const PointwiseSpec& spec);
  // Keeps a finalized descriptor, or its error; null after an error.
  cudnnBackendDescriptor_t Keep(CudnnDescriptor descriptor);
  void KeepOperation(CudnnDescriptor operation);

  const CudnnLibrary& library_;
  absl::Status status_;
  int64_t next_virtual_uid_ = 1000;  // above every uid of a real tensor
  std::vector<int64_t> uids_;
  std::vector<CudnnDescriptor> descriptors_;
  std::vector<cudnnBackendDescriptor_t> operations_;
  CudnnDescriptor graph_;
};

// An executable graph, with all that it was made from: cuDNN does not say what a plan refers to.
struct CudnnPlan {
  std::unique_ptr<CudnnGraph> graph;
  std::vector<CudnnDescriptor> sources;
  CudnnDescriptor plan;
  int64_t workspace_bytes = 0;
};

// Makes a plan of the first engine configuration, in the order of cuDNN's heuristics, that works.
// kUnimplemented: no engine runs the graph on this device. REQUIRES: the graph is finalized with
// `handle`.
absl::StatusOr<CudnnPlan> MakeCudnnPlan(std::unique_ptr<CudnnGraph> graph, cudnnHandle_t handle);

// Queues the plan on the stream of `handle`. `pointers[uid]` belongs to each uid of the graph.
// cuDNN does not promise that one plan may be executed by two threads at once.
absl::Status ExecuteCudnnPlan(const CudnnPlan& plan, cudnnHandle_t handle, void* const* pointers,
                              void* workspace);

}  // namespace lorad::cuda

#endif  // LORAD_ENGINE_OPS_CUDA_CUDNN_GRAPH_H_
