// The directory that holds everything the daemon must not forget.
#ifndef LORAD_SERVER_STORE_STATE_DIR_H_
#define LORAD_SERVER_STORE_STATE_DIR_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad::server {

// Owns the directory: one process at a time, by flock on `lock`, which also holds its process id.
// The kernel drops the lock with the process, so a file left by a killed one does no harm.
//   state.db   records (SQLite)          jobs/<job_id>/   checkpoints and output of unfinished jobs
//   blobs/     datasets and adapters     uploads/         unfinished uploads and imports
class StateDir {
 public:
  // Makes it if missing. kFailedPrecondition names the owner when another process has it.
  static absl::StatusOr<std::unique_ptr<StateDir>> Open(const std::string& path);
  ~StateDir();
  StateDir(const StateDir&) = delete;
  StateDir& operator=(const StateDir&) = delete;

  const std::string& path() const { return path_; }
  std::string DatabasePath() const;
  std::string BlobsPath() const;
  std::string UploadsPath() const;
  std::string JobsPath() const;

 private:
  StateDir(std::string path, int lock_fd) : path_(std::move(path)), lock_fd_(lock_fd) {}

  const std::string path_;
  const int lock_fd_;
};

// Sum of the sizes of the regular files in `dir`, not below it.
absl::StatusOr<int64_t> TotalFileBytes(const std::string& dir);

}  // namespace lorad::server

#endif  // LORAD_SERVER_STORE_STATE_DIR_H_
