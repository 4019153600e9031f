// A read-only memory mapping of a regular file.
#ifndef LORAD_ENGINE_IO_MMAP_FILE_H_
#define LORAD_ENGINE_IO_MMAP_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

// Move-only; the bytes stay valid and keep their address until the object that holds them last is
// destroyed. Thread-safe for reading. A file that another process shortens while it is mapped ends
// this process with SIGBUS when the lost part is read: model files are for replacing by rename, not
// for rewriting in place; CheckUnchanged() finds a rewritten file before its bytes are used.
class MmapFile {
 public:
  // Opens a regular file; symbolic links are followed, a FIFO, directory or device is refused
  // without being waited for (kInvalidArgument). A missing file is kNotFound. Empty files map.
  static absl::StatusOr<MmapFile> Open(const std::string& path);

  MmapFile() = default;
  ~MmapFile();
  MmapFile(MmapFile&& other) noexcept;
  MmapFile& operator=(MmapFile&& other) noexcept;

  // The content; data() is page-aligned.
  std::string_view bytes() const { return {data_, static_cast<size_t>(size_)}; }
  int64_t size_bytes() const { return size_; }
  const std::string& path() const { return path_; }

  // kDataLoss when the mapped file's size or modification time is no longer that of Open().
  absl::Status CheckUnchanged() const;

 private:
  std::string path_;
  int fd_ = -1;
  const char* data_ = nullptr;
  int64_t size_ = 0;
  int64_t modified_ns_ = 0;
};

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_MMAP_FILE_H_
