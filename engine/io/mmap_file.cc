#include "engine/io/mmap_file.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/posix.h"

namespace lorad {

absl::StatusOr<MmapFile> MmapFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(posix::RegularFile file, posix::OpenRegularFile(path));
  MmapFile mapped;
  mapped.path_ = path;
  mapped.modified_ns_ = file.modified_ns;
  if (file.size_bytes > 0) {
    void* data = ::mmap(nullptr, static_cast<size_t>(file.size_bytes), PROT_READ, MAP_PRIVATE,
                        file.fd.get(), 0);
    if (data == MAP_FAILED) return posix::ErrnoStatus("mapping", path, errno);
    mapped.data_ = static_cast<const char*>(data);
    mapped.size_ = file.size_bytes;
  }
  mapped.fd_ = file.fd.Release();
  return mapped;
}

MmapFile::~MmapFile() {
  if (data_ != nullptr) ::munmap(const_cast<char*>(data_), static_cast<size_t>(size_));
  if (fd_ >= 0) ::close(fd_);
}

MmapFile::MmapFile(MmapFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      modified_ns_(other.modified_ns_) {}

MmapFile& MmapFile::operator=(MmapFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(modified_ns_, other.modified_ns_);
  return *this;
}

absl::Status MmapFile::CheckUnchanged() const {
  struct stat info;
  if (::fstat(fd_, &info) != 0) return posix::ErrnoStatus("inspecting", path_, errno);
  const int64_t modified_ns = info.st_mtim.tv_sec * int64_t{1000000000} + info.st_mtim.tv_nsec;
  if (info.st_size == size_ && modified_ns == modified_ns_) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      path_, ": was rewritten while in use (", size_, " bytes when opened, ", info.st_size,
      " now); replace files by renaming a new one over them, then open again"));
}

}  // namespace lorad
