#include "server/store/blob_store.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/io/atomic_directory.h"
#include "engine/io/file.h"
#include "engine/io/sha256.h"

namespace lorad::server {
namespace {

// A blob is renamed to this before its files go: a half-deleted one never bears an id.
constexpr char kDeletedPrefix[] = "deleted-";

absl::StatusOr<std::vector<std::string>> EntriesOf(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error) return absl::InternalError(absl::StrCat("listing ", directory, ": ", error.message()));
  return names;
}

// A copy, not a link: whoever writes to the source later must not change the blob.
absl::Status Copy(const std::string& from, const std::string& to) {
  std::error_code error;
  std::filesystem::copy_file(from, to, error);
  if (!error) return absl::OkStatus();
  return absl::Status(error == std::errc::no_space_on_device ? absl::StatusCode::kResourceExhausted
                                                             : absl::StatusCode::kInternal,
                      absl::StrCat("copying ", from, " to ", to, ": ", error.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalBlobStore>> LocalBlobStore::Open(const std::string& root) {
  RETURN_IF_ERROR(CreateDirectories(root));
  RETURN_IF_ERROR(RemoveOrphanTemporaries(root).status());
  ASSIGN_OR_RETURN(const std::vector<std::string> names, EntriesOf(root));
  for (const std::string& name : names) {
    if (absl::StartsWith(name, kDeletedPrefix)) {
      RETURN_IF_ERROR(RemoveDirectory(JoinPath(root, name)));
    }
  }
  return std::unique_ptr<LocalBlobStore>(new LocalBlobStore(root));
}

std::string LocalBlobStore::PathOf(const std::string& id) const {
  LORAD_CHECK(IsSha256Hex(id));  // and so never leaves root_
  return JoinPath(root_, id);
}

absl::Status LocalBlobStore::Put(const std::string& id, const std::vector<BlobFile>& files) {
  const std::string path = PathOf(id);
  if (PathExists(path)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::unique_ptr<AtomicDirectory> blob, AtomicDirectory::Create(path));
  for (const BlobFile& file : files) {
    RETURN_IF_ERROR(Copy(file.source_path, JoinPath(blob->path(), file.name)));
  }
  const absl::Status published = blob->Publish();
  return absl::IsAlreadyExists(published) ? absl::OkStatus() : published;
}

absl::StatusOr<std::string> LocalBlobStore::Directory(const std::string& id) const {
  std::string path = PathOf(id);
  if (!PathExists(path)) return absl::NotFoundError(absl::StrCat("blob ", id, " is not at ", path));
  return path;
}

absl::Status LocalBlobStore::Delete(const std::string& id) {
  const std::string deleted = JoinPath(root_, absl::StrCat(kDeletedPrefix, id));
  if (std::rename(PathOf(id).c_str(), deleted.c_str()) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("deleting blob ", id, ": ", std::strerror(errno)));
  }
  return RemoveDirectory(deleted);
}

absl::StatusOr<std::vector<std::string>> LocalBlobStore::List() const {
  ASSIGN_OR_RETURN(std::vector<std::string> names, EntriesOf(root_));
  std::erase_if(names, [](const std::string& name) { return !IsSha256Hex(name); });
  return names;
}

}  // namespace lorad::server
