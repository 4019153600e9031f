// SHA-256 digests (FIPS 180-4) as 64 lower-case hexadecimal digits, computed by libcrypto.
#ifndef LORAD_ENGINE_IO_SHA256_H_
#define LORAD_ENGINE_IO_SHA256_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace lorad {

// Digest of bytes that come in pieces. Thread-compatible.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(std::string_view bytes);
  // The digest of all bytes given so far; more may be given after it.
  std::string HexDigest() const;

 private:
  struct Context;  // keeps OpenSSL's headers out of this one
  std::unique_ptr<Context> context_;
};

std::string Sha256Hex(std::string_view bytes);

// Digest of a regular file's content; errors as MmapFile::Open().
absl::StatusOr<std::string> Sha256HexOfFile(const std::string& path);

// True for 64 digits of [0-9a-f].
bool IsSha256Hex(std::string_view text);

}  // namespace lorad

#endif  // LORAD_ENGINE_IO_SHA256_H_
