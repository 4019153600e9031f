// Artefacts by content: a blob is a small set of files under the sha256 that identifies it.
#ifndef LORAD_SERVER_STORE_BLOB_STORE_H_
#define LORAD_SERVER_STORE_BLOB_STORE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad::server {

struct BlobFile {
  std::string name;         // in the blob; a plain file name
  std::string source_path;  // a regular file; stays
};

// Immutable once put. The interface leaves room for a shared store that keeps a local copy.
// Thread-safe.
class BlobStore {
 public:
  virtual ~BlobStore() = default;

  // Returns when the blob is durable; it is there as a whole or not at all. Putting an id that is
  // there changes nothing: the id names the content. REQUIRES: id is 64 hexadecimal digits.
  virtual absl::Status Put(const std::string& id, const std::vector<BlobFile>& files) = 0;
  // A local directory that holds the blob's files. kNotFound.
  virtual absl::StatusOr<std::string> Directory(const std::string& id) const = 0;
  // OK when it is not there. Readers that opened its files before keep them.
  virtual absl::Status Delete(const std::string& id) = 0;
  virtual absl::StatusOr<std::vector<std::string>> List() const = 0;
};

// One directory per blob under `root`.
class LocalBlobStore : public BlobStore {
 public:
  // Makes `root` if missing and removes what interrupted puts and deletes left.
  // REQUIRES: no other process writes to `root`.
  static absl::StatusOr<std::unique_ptr<LocalBlobStore>> Open(const std::string& root);

  absl::Status Put(const std::string& id, const std::vector<BlobFile>& files) override;
  absl::StatusOr<std::string> Directory(const std::string& id) const override;
  absl::Status Delete(const std::string& id) override;
  absl::StatusOr<std::vector<std::string>> List() const override;

 private:
  explicit LocalBlobStore(std::string root) : root_(std::move(root)) {}
  std::string PathOf(const std::string& id) const;

  const std::string root_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_STORE_BLOB_STORE_H_
