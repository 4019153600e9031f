// Whole files: read, written so that a crash leaves the old content or the new one, never a
// mixture.
#ifndef LORAD_ENGINE_IO_FILE_H_
#define LORAD_ENGINE_IO_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

// All functions here are thread-safe. Their errors name the path and the system's reason; a missing
// file is kNotFound, a full disk kResourceExhausted, a denied access kPermissionDenied.

// The largest file that ReadFile takes unless told otherwise; larger ones are for MmapFile.
inline constexpr int64_t kDefaultMaxReadBytes = int64_t{1} << 30;

// The content of a regular file. A FIFO, directory or device is refused (kInvalidArgument), as is a
// file larger than `max_bytes` (kResourceExhausted) before anything is allocated for it.
absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes = kDefaultMaxReadBytes);

// Replaces `path` by `bytes`: temporary file in the same directory, write, fsync, rename, fsync of
// the directory. When it returns OK the content is on the disk; on any error or crash before that,
// `path` is as it was. The parent directory must exist. Mode 0644 less the umask.
absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes);

// Makes `path` and its missing parents (mode 0755 less the umask), each durably. OK if it is there.
absl::Status CreateDirectories(const std::string& path);

// Removes a file and makes the removal durable. OK if it is not there.
absl::Status RemoveFile(const std::string& path);

// Removes a directory with all in it (symbolic links are removed, not followed) and makes the
// removal durable. OK if it is not there.
absl::Status RemoveDirectory(const std::string& path);

// Bytes that an unprivileged process may still write on the file system that holds `path`.
absl::StatusOr<int64_t> FreeDiskBytes(const std::string& path);

// Removes what interrupted atomic writes of earlier processes left in `directory` (not below it);
// returns how many. Temporaries of this process are kept. Call it only for a directory that no
// other live process writes to, e.g. a state directory whose lock is held.
absl::StatusOr<int> RemoveOrphanTemporaries(const std::string& directory);

// True when something is there, whatever it is (symbolic links are followed).
bool PathExists(const std::string& path);

// "a/b" from ("a", "b"); `directory` may end in '/'.
std::string JoinPath(std::string_view directory, std::string_view name);

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_FILE_H_
