// What the files of engine/io share of the system's file calls. Internal to engine/io.
#ifndef LORAD_ENGINE_IO_POSIX_H_
#define LORAD_ENGINE_IO_POSIX_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad::posix {

// Closes on destruction. Move-only.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

struct RegularFile {
  FileDescriptor fd;
  int64_t size_bytes = 0;
  int64_t modified_ns = 0;
};

// "<action> <path>: <reason>" with the code that suits `error` (an errno).
absl::Status ErrnoStatus(std::string_view action, const std::string& path, int error);

// Opens for reading; never waits for the writer of a FIFO. kInvalidArgument unless regular.
absl::StatusOr<RegularFile> OpenRegularFile(const std::string& path);

// Creates `path`, which must not exist, with `bytes`, and fsyncs it.
absl::Status WriteNewFile(const std::string& path, std::string_view bytes);

absl::Status SyncFile(const std::string& path);
absl::Status SyncDirectory(const std::string& path);

// "." for a path without '/'.
std::string ParentDirectory(const std::string& path);

// A name that no other call in any process gives, and that RemoveOrphanTemporaries knows.
std::string NewTemporaryName();
// True for a name that NewTemporaryName gave in another process.
bool IsForeignTemporaryName(std::string_view name);

}  // namespace lorad::posix

#endif  // LORAD_ENGINE_IO_POSIX_H_
