#include "server/store/state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/memory/memory.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"

namespace lorad::server {
namespace {

absl::Status LockedByOther(const std::string& path, const std::string& lock) {
  const absl::StatusOr<std::string> content = ReadFile(lock, 64);
  const std::string pid = content.ok() ? std::string(absl::StripAsciiWhitespace(*content)) : "?";
  return absl::FailedPreconditionError(
      absl::StrCat("state directory ", path, " is owned by process ", pid,
                   "; stop that process or choose another --state_dir"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<StateDir>> StateDir::Open(const std::string& path) {
  RETURN_IF_ERROR(CreateDirectories(path));
  // Prompts, data and adapters of users are in it.
  if (::chmod(path.c_str(), 0700) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("state directory ", path, " is not ours: ", std::strerror(errno)));
  }
  const std::string lock = JoinPath(path, "lock");
  const int fd = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    return absl::PermissionDeniedError(absl::StrCat("opening ", lock, ": ", std::strerror(errno)));
  }
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    ::close(fd);
    if (error == EWOULDBLOCK) return LockedByOther(path, lock);
    return absl::InternalError(absl::StrCat("locking ", lock, ": ", std::strerror(error)));
  }
  auto dir = absl::WrapUnique(new StateDir(path, fd));
  const std::string pid = absl::StrCat(::getpid(), "\n");
  if (::ftruncate(fd, 0) != 0 || ::write(fd, pid.data(), pid.size()) < 0) {
    return absl::InternalError(absl::StrCat("writing ", lock, ": ", std::strerror(errno)));
  }
  for (const std::string& sub : {dir->UploadsPath(), dir->JobsPath()}) {
    RETURN_IF_ERROR(CreateDirectories(sub));
  }
  return dir;
}

StateDir::~StateDir() { ::close(lock_fd_); }

std::string StateDir::DatabasePath() const { return JoinPath(path_, "state.db"); }
std::string StateDir::BlobsPath() const { return JoinPath(path_, "blobs"); }
std::string StateDir::UploadsPath() const { return JoinPath(path_, "uploads"); }
std::string StateDir::JobsPath() const { return JoinPath(path_, "jobs"); }

absl::StatusOr<int64_t> TotalFileBytes(const std::string& dir) {
  int64_t total = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_regular_file(error)) total += static_cast<int64_t>(it->file_size(error));
    if (error) break;
  }
  if (error) return absl::InternalError(absl::StrCat("listing ", dir, ": ", error.message()));
  return total;
}

}  // namespace lorad::server
