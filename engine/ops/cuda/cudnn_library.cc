#include "engine/ops/cuda/cudnn_library.h"

#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/device/cuda/cuda_error.h"

namespace lorad::cuda {
namespace {

// The first is where the entry points are; the second forwards to it.
constexpr const char* kNames[] = {"libcudnn_graph.so.9", "libcudnn.so.9"};

template <typename Function>
absl::Status ResolveOne(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function != nullptr) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cuDNN has no function ", name));
}

// 3008, the reason, is of the category 3000.
int Category(cudnnStatus_t status) { return static_cast<int>(status) / 1000 * 1000; }

std::string VersionText(int64_t version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

}  // namespace

absl::StatusOr<const CudnnLibrary*> CudnnLibrary::Get() {
  // Leaked: descriptors may be destroyed as late as in static destructors.
  static const auto* const library = new absl::StatusOr<const CudnnLibrary*>(Open());
  return *library;
}

absl::StatusOr<const CudnnLibrary*> CudnnLibrary::Open() {
  void* handle = nullptr;
  std::string reasons;
  for (const char* name : kNames) {
    // Global: the sub-libraries, which cuDNN opens itself later, find the same symbols.
    handle = dlopen(name, RTLD_NOW | RTLD_GLOBAL);
    if (handle != nullptr) break;
    const char* reason = dlerror();
    absl::StrAppend(&reasons, reasons.empty() ? "" : "; ", reason == nullptr ? name : reason);
  }
  if (handle == nullptr) {
    return absl::UnavailableError(absl::StrCat("cuDNN is not installed: ", reasons));
  }
  std::unique_ptr<CudnnLibrary> library(new CudnnLibrary);
  RETURN_IF_ERROR(library->Resolve(handle));
  library->version_ = static_cast<int64_t>(library->get_version_());
  if (library->version_ < kMinCudnnVersion) {
    return absl::UnavailableError(absl::StrCat("cuDNN is ", VersionText(library->version_),
                                               ", attention needs ",
                                               VersionText(kMinCudnnVersion)));
  }
  return library.release();  // as long-lived as the process
}

absl::Status CudnnLibrary::Resolve(void* library) {
  RETURN_IF_ERROR(ResolveOne(library, "cudnnGetVersion", &get_version_));
  RETURN_IF_ERROR(ResolveOne(library, "cudnnGetLastErrorString", &get_last_error_));
  RETURN_IF_ERROR(ResolveOne(library, "cudnnCreate", &create));
  RETURN_IF_ERROR(ResolveOne(library, "cudnnDestroy", &destroy));
  RETURN_IF_ERROR(ResolveOne(library, "cudnnSetStream", &set_stream));
  RETURN_IF_ERROR(ResolveOne(library, "cudnnBackendCreateDescriptor", &create_descriptor));
  RETURN_IF_ERROR(ResolveOne(library, "cudnnBackendDestroyDescriptor", &destroy_descriptor));
  RETURN_IF_ERROR(ResolveOne(library, "cudnnBackendFinalize", &finalize));
  RETURN_IF_ERROR(ResolveOne(library, "cudnnBackendSetAttribute", &set_attribute));
  RETURN_IF_ERROR(ResolveOne(library, "cudnnBackendGetAttribute", &get_attribute));
  return ResolveOne(library, "cudnnBackendExecute", &execute);
}

absl::Status CudnnLibrary::Check(cudnnStatus_t status, const std::string& what) const {
  if (status == CUDNN_STATUS_SUCCESS) return absl::OkStatus();
  std::array<char, 1024> text{};
  get_last_error_(text.data(), text.size());
  const std::string message = absl::StrCat("cuDNN ", VersionText(version_), ", ", what, ": status ",
                                           static_cast<int>(status), ": ", text.data());
  if (status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
      status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED) {
    return absl::ResourceExhaustedError(message);
  }
  if (Category(status) == CUDNN_STATUS_NOT_SUPPORTED) {
    return absl::UnimplementedError(message);
  }
  return absl::InternalError(message);
}

absl::StatusOr<std::unique_ptr<CudnnHandle>> CudnnHandle::Create(int device, cudaStream_t stream) {
  ASSIGN_OR_RETURN(const CudnnLibrary* library, CudnnLibrary::Get());
  RETURN_IF_ERROR(ToStatus(cudaSetDevice(device), "cudaSetDevice"));
  cudnnHandle_t raw = nullptr;
  RETURN_IF_ERROR(library->Check(library->create(&raw), "creating a handle"));
  std::unique_ptr<CudnnHandle> handle(new CudnnHandle(*library, raw, stream));
  RETURN_IF_ERROR(library->Check(library->set_stream(raw, stream), "setting a handle's stream"));
  return handle;
}

CudnnHandle::~CudnnHandle() {
  if (library_.destroy(handle_) != CUDNN_STATUS_SUCCESS) {
    std::fprintf(stderr, "cudnnDestroy failed\n");
  }
}

}  // namespace lorad::cuda
