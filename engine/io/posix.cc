#include "engine/io/posix.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/io/text.h"

namespace lorad::posix {
namespace {

constexpr char kTemporaryPrefix[] = ".lorad-tmp-";

// Tells this process's temporaries from those of earlier ones; process ids repeat (a container's
// daemon always has 1).
const std::string& ProcessToken() {
  static const std::string* token = [] {
    uint64_t random = 0;
    LORAD_CHECK(::getrandom(&random, sizeof(random), 0) == sizeof(random));
    return new std::string(absl::StrCat(absl::Hex(random, absl::kZeroPad16)));
  }();
  return *token;
}

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::StatusCode::kNotFound;
    case EEXIST:
    case ENOTEMPTY:
      return absl::StatusCode::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::StatusCode::kResourceExhausted;
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case ENXIO:
      return absl::StatusCode::kInvalidArgument;
    default:
      return absl::StatusCode::kInternal;
  }
}

absl::Status WriteAll(int fd, const std::string& path, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus("writing", path, errno);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status Sync(const std::string& path, int flags) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags));
  if (fd.get() < 0) return ErrnoStatus("opening", path, errno);
  if (::fsync(fd.get()) != 0) return ErrnoStatus("syncing", path, errno);
  return absl::OkStatus();
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status ErrnoStatus(std::string_view action, const std::string& path, int error) {
  return absl::Status(CodeOf(error),
                      absl::StrCat(AbslView(action), " ", path, ": ", std::strerror(error)));
}

absl::StatusOr<RegularFile> OpenRegularFile(const std::string& path) {
  RegularFile file;
  file.fd = FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.fd.get() < 0) return ErrnoStatus("opening", path, errno);
  struct stat info;
  if (::fstat(file.fd.get(), &info) != 0) return ErrnoStatus("inspecting", path, errno);
  if (!S_ISREG(info.st_mode))
    return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  file.size_bytes = info.st_size;
  file.modified_ns = info.st_mtim.tv_sec * int64_t{1000000000} + info.st_mtim.tv_nsec;
  return file;
}

absl::Status WriteNewFile(const std::string& path, std::string_view bytes) {
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (fd.get() < 0) return ErrnoStatus("creating", path, errno);
  RETURN_IF_ERROR(WriteAll(fd.get(), path, bytes));
  if (::fsync(fd.get()) != 0) return ErrnoStatus("syncing", path, errno);
  // Some file systems report a failed write only here.
  if (::close(fd.Release()) != 0 && errno != EINTR) return ErrnoStatus("closing", path, errno);
  return absl::OkStatus();
}

absl::Status SyncFile(const std::string& path) { return Sync(path, O_NOFOLLOW | O_NONBLOCK); }
absl::Status SyncDirectory(const std::string& path) { return Sync(path, O_DIRECTORY); }

std::string ParentDirectory(const std::string& path) {
  const size_t last = path.find_last_not_of('/');
  if (last == std::string::npos) return path.empty() ? "." : "/";
  const size_t slash = path.find_last_of('/', last);
  if (slash == std::string::npos) return ".";
  const size_t end = path.find_last_not_of('/', slash);
  return end == std::string::npos ? "/" : path.substr(0, end + 1);
}

std::string NewTemporaryName() {
  static std::atomic<uint64_t> next{0};
  return absl::StrCat(kTemporaryPrefix, ProcessToken(), "-", next.fetch_add(1));
}

bool IsForeignTemporaryName(std::string_view name) {
  return absl::StartsWith(AbslView(name), kTemporaryPrefix) &&
         !absl::StartsWith(AbslView(name), absl::StrCat(kTemporaryPrefix, ProcessToken(), "-"));
}

}  // namespace lorad::posix
