#include "engine/io/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "engine/io/posix.h"
#include "engine/io/text.h"

namespace lorad {
namespace {

absl::Status ReadAll(int fd, const std::string& path, std::string* content) {
  size_t done = 0;
  while (done < content->size()) {
    const ssize_t got = ::read(fd, content->data() + done, content->size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return posix::ErrnoStatus("reading", path, errno);
    if (got == 0) break;  // shortened meanwhile
    done += static_cast<size_t>(got);
  }
  content->resize(done);
  return absl::OkStatus();
}

// Removes the entries of the open directory `fd` (which it closes), then leaves it empty.
absl::Status RemoveEntries(int fd, const std::string& path) {
  DIR* directory = ::fdopendir(fd);
  if (directory == nullptr) {
    const int error = errno;
    ::close(fd);
    return posix::ErrnoStatus("listing", path, error);
  }
  absl::Status status;
  while (status.ok()) {
    const dirent* entry = ::readdir(directory);
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (::unlinkat(fd, name.c_str(), 0) == 0 || errno == ENOENT) continue;
    const std::string child = JoinPath(path, name);
    // O_NOFOLLOW: what was swapped for a link meanwhile is never descended into.
    const int child_fd =
        ::openat(fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (child_fd < 0) {
      status = posix::ErrnoStatus("removing", child, errno);
    } else {
      status = RemoveEntries(child_fd, child);
      if (status.ok() && ::unlinkat(fd, name.c_str(), AT_REMOVEDIR) != 0)
        status = posix::ErrnoStatus("removing", child, errno);
    }
  }
  ::closedir(directory);
  return status;
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  ASSIGN_OR_RETURN(const posix::RegularFile file, posix::OpenRegularFile(path));
  if (file.size_bytes > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": ", file.size_bytes, " bytes exceed the limit of ", max_bytes));
  }
  std::string content(static_cast<size_t>(file.size_bytes), '\0');
  RETURN_IF_ERROR(ReadAll(file.fd.get(), path, &content));
  return content;
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes) {
  const std::string directory = posix::ParentDirectory(path);
  const std::string temporary = JoinPath(directory, posix::NewTemporaryName());
  absl::Status status = posix::WriteNewFile(temporary, bytes);
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0)
    status = posix::ErrnoStatus(absl::StrCat("renaming ", temporary, " to"), path, errno);
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  return posix::SyncDirectory(directory);
}

absl::Status CreateDirectories(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) == 0) return posix::SyncDirectory(posix::ParentDirectory(path));
  if (errno == ENOENT) {
    const std::string parent = posix::ParentDirectory(path);
    if (parent == path) return posix::ErrnoStatus("creating directory", path, ENOENT);
    RETURN_IF_ERROR(CreateDirectories(parent));
    return CreateDirectories(path);
  }
  const int error = errno;
  struct stat info;
  if (error == EEXIST && ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode))
    return absl::OkStatus();
  return posix::ErrnoStatus("creating directory", path, error);
}

absl::Status RemoveFile(const std::string& path) {
  if (::unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return posix::ErrnoStatus("removing", path, errno);
  }
  return posix::SyncDirectory(posix::ParentDirectory(path));
}

absl::Status RemoveDirectory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return posix::ErrnoStatus("removing directory", path, errno);
  }
  RETURN_IF_ERROR(RemoveEntries(fd, path));
  if (::rmdir(path.c_str()) != 0) return posix::ErrnoStatus("removing directory", path, errno);
  return posix::SyncDirectory(posix::ParentDirectory(path));
}

absl::StatusOr<int64_t> FreeDiskBytes(const std::string& path) {
  struct statvfs info;
  if (::statvfs(path.c_str(), &info) != 0)
    return posix::ErrnoStatus("asking for the free space of", path, errno);
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

absl::StatusOr<int> RemoveOrphanTemporaries(const std::string& directory) {
  DIR* handle = ::opendir(directory.c_str());
  if (handle == nullptr) return posix::ErrnoStatus("listing", directory, errno);
  std::vector<std::string> orphans;
  while (const dirent* entry = ::readdir(handle)) {
    if (posix::IsForeignTemporaryName(entry->d_name)) orphans.push_back(entry->d_name);
  }
  ::closedir(handle);
  for (const std::string& name : orphans) {
    const std::string path = JoinPath(directory, name);
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) continue;
    RETURN_IF_ERROR(RemoveDirectory(path));
  }
  if (!orphans.empty()) RETURN_IF_ERROR(posix::SyncDirectory(directory));
  return static_cast<int>(orphans.size());
}

bool PathExists(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0;
}

std::string JoinPath(std::string_view directory, std::string_view name) {
  if (directory.empty()) return std::string(name);
  return absl::StrCat(AbslView(directory), directory.back() == '/' ? "" : "/", AbslView(name));
}

}  // namespace lorad
