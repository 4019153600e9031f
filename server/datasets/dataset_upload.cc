#include "server/datasets/dataset_upload.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/sha256.h"
#include "server/base/errors.h"

namespace lorad::server {
namespace {

constexpr size_t kMaxChunkBytes = size_t{4} << 20;

absl::Status WriteError(const std::string& path, int error) {
  const absl::StatusCode code = error == ENOSPC || error == EDQUOT
                                    ? absl::StatusCode::kResourceExhausted
                                    : absl::StatusCode::kInternal;
  return absl::Status(code, absl::StrCat("writing ", path, ": ", std::strerror(error)));
}

}  // namespace

DatasetUpload::~DatasetUpload() {
  if (path_.empty()) return;
  ClosePart();
  if (metadata_.request_id().empty()) ::unlink(path_.c_str());
  registry_->EndUpload(path_);
}

absl::Status DatasetUpload::OpenPart(std::string path) {
  path_ = std::move(path);
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd_ < 0) return WriteError(path_, errno);
  struct stat info;
  if (::fstat(fd_, &info) != 0) return WriteError(path_, errno);
  size_ = info.st_size;
  return absl::OkStatus();
}

void DatasetUpload::ClosePart() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

absl::Status DatasetUpload::Append(const v1::DatasetChunk& chunk) {
  const std::string& data = chunk.data();
  if (data.empty() || data.size() > kMaxChunkBytes) {
    return FieldError("chunk.data", absl::StrCat("has ", data.size(), " bytes, 1 to ",
                                                 kMaxChunkBytes, " are allowed"));
  }
  if (chunk.offset() == 0 && size_ > 0) {
    if (::ftruncate(fd_, 0) != 0) return WriteError(path_, errno);
    size_ = 0;
  }
  if (chunk.offset() != size_) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("chunk.offset is ", chunk.offset(), ", but ", size_,
                                       " bytes are there; continue from there "
                                       "or start anew from 0")),
                      "UPLOAD_OFFSET", {{"committed_bytes", absl::StrCat(size_)}});
  }
  if (size_ + static_cast<int64_t>(data.size()) > metadata_.size_bytes()) {
    return FieldError("chunk.data", absl::StrCat("goes beyond metadata.size_bytes, ",
                                                 metadata_.size_bytes(), " bytes"));
  }
  for (size_t done = 0; done < data.size();) {
    const ssize_t wrote = ::write(fd_, data.data() + done, data.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return WriteError(path_, errno);
    done += static_cast<size_t>(wrote);
    size_ += wrote;
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::UploadDatasetResponse> DatasetUpload::Commit() {
  if (size_ != metadata_.size_bytes()) {
    return WithReason(absl::DataLossError(absl::StrCat("the upload ended after ", size_, " of ",
                                                       metadata_.size_bytes(),
                                                       " bytes; continue it from offset ", size_)),
                      "UPLOAD_INCOMPLETE", {{"committed_bytes", absl::StrCat(size_)}});
  }
  ClosePart();
  ASSIGN_OR_RETURN(const std::string sha256, Sha256HexOfFile(path_));
  if (sha256 != metadata_.sha256()) {
    RETURN_IF_ERROR(registry_->Forget(metadata_, path_));
    return WithReason(absl::DataLossError(absl::StrCat("what arrived has sha256 ", sha256,
                                                       ", metadata.sha256 is ", metadata_.sha256(),
                                                       "; send the file again")),
                      "UPLOAD_CHECKSUM", {});
  }
  return registry_->Commit(metadata_, path_);
}

}  // namespace lorad::server
