#include "engine/io/atomic_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/io/file.h"
#include "engine/io/posix.h"
#include "engine/io/text.h"

namespace lorad {
namespace {

absl::Status SyncEntries(const std::string& path) {
  DIR* directory = ::opendir(path.c_str());
  if (directory == nullptr) return posix::ErrnoStatus("listing", path, errno);
  absl::Status status;
  while (const dirent* entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    status = posix::SyncFile(JoinPath(path, name));
    if (!status.ok()) break;
  }
  ::closedir(directory);
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AtomicDirectory>> AtomicDirectory::Create(
    const std::string& final_path) {
  struct stat info;
  if (::lstat(final_path.c_str(), &info) == 0)
    return absl::AlreadyExistsError(absl::StrCat(final_path, " already exists"));
  const std::string path = JoinPath(posix::ParentDirectory(final_path), posix::NewTemporaryName());
  if (::mkdir(path.c_str(), 0755) != 0)
    return posix::ErrnoStatus("creating directory", path, errno);
  return absl::WrapUnique(new AtomicDirectory(path, final_path));
}

AtomicDirectory::AtomicDirectory(std::string path, std::string final_path)
    : path_(std::move(path)), final_path_(std::move(final_path)) {}

AtomicDirectory::~AtomicDirectory() {
  // A failure leaves an orphan, which RemoveOrphanTemporaries knows by its name.
  if (!published_) (void)RemoveDirectory(path_);
}

absl::Status AtomicDirectory::WriteFile(std::string_view name, std::string_view bytes) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string_view::npos)
    return absl::InvalidArgumentError(
        absl::StrCat("'", AbslView(name), "' is not a plain file name"));
  return posix::WriteNewFile(JoinPath(path_, name), bytes);
}

absl::Status AtomicDirectory::Publish() {
  LORAD_CHECK(!published_);
  RETURN_IF_ERROR(SyncEntries(path_));
  RETURN_IF_ERROR(posix::SyncDirectory(path_));
  // Plain rename() would replace an empty directory that somebody else made meanwhile.
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_NOREPLACE) != 0)
    return posix::ErrnoStatus(absl::StrCat("renaming ", path_, " to"), final_path_, errno);
  published_ = true;
  return posix::SyncDirectory(posix::ParentDirectory(final_path_));
}

}  // namespace lorad
