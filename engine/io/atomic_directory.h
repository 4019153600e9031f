// Publishes a directory of several files in one step.
#ifndef LORAD_ENGINE_IO_ATOMIC_DIRECTORY_H_
#define LORAD_ENGINE_IO_ATOMIC_DIRECTORY_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

// Files are collected in a temporary directory beside the final one; Publish() makes all of them
// durable and renames the directory. Destroyed unpublished, it removes what it wrote; after a crash
// RemoveOrphanTemporaries(parent) does. Thread-compatible.
class AtomicDirectory {
 public:
  // The parent of `final_path` must exist; kAlreadyExists when `final_path` is already there.
  static absl::StatusOr<std::unique_ptr<AtomicDirectory>> Create(const std::string& final_path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  // Where the files are until Publish(); other writers may put regular files here themselves.
  const std::string& path() const { return path_; }

  // Writes the file `name` (a plain name, no '/') into the temporary directory.
  absl::Status WriteFile(std::string_view name, std::string_view bytes);

  // fsync of every file and of the directory, rename to the final path, fsync of the parent.
  // kAlreadyExists when something has appeared at the final path meanwhile: it is left untouched.
  // Call once.
  absl::Status Publish();

 private:
  AtomicDirectory(std::string path, std::string final_path);

  std::string path_;
  std::string final_path_;
  bool published_ = false;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_ATOMIC_DIRECTORY_H_
