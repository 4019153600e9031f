// Internal to client/: the files of a PEFT directory on their way to and from the server.
#ifndef LORAD_CLIENT_ADAPTER_FILES_H_
#define LORAD_CLIENT_ADAPTER_FILES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/io/atomic_directory.h"
#include "lorad/v1/adapter_service.pb.h"

namespace lorad::client {

// Calls `send` with the chunks of one file, in order. False from `send` ends it, without an error.
// NotFound when the file is missing; an empty file is InvalidArgument.
absl::Status ReadChunks(const std::string& dir, const std::string& name,
                        const std::function<bool(v1::AdapterFileChunk)>& send);

// Collects the files that the server streams, and publishes them as one directory.
// Thread-compatible.
class AdapterWriter {
 public:
  // AlreadyExists unless `dir` is missing or an empty directory.
  static absl::StatusOr<std::unique_ptr<AdapterWriter>> Create(const std::string& dir);

  // DataLoss: a chunk does not follow on. InvalidArgument: a path that is no plain file name.
  absl::Status Add(const v1::AdapterFileChunk& chunk);
  // DataLoss when one of the two files of an adapter did not come.
  absl::Status Publish();

 private:
  explicit AdapterWriter(std::unique_ptr<AtomicDirectory> files) : files_(std::move(files)) {}

  std::unique_ptr<AtomicDirectory> files_;
  std::string name_;  // of the file that is being written
  int64_t size_ = 0;  // of it so far
};

}  // namespace lorad::client

#endif  // LORAD_CLIENT_ADAPTER_FILES_H_
