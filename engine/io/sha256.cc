#include "engine/io/sha256.h"

#include <openssl/evp.h>

#include <algorithm>

#include "absl/strings/escaping.h"
#include "engine/core/check.h"
#include "engine/core/status_macros.h"
#include "engine/io/mmap_file.h"

namespace lorad {

struct Sha256::Context {
  Context() : evp(EVP_MD_CTX_new()) { LORAD_CHECK(evp != nullptr); }
  ~Context() { EVP_MD_CTX_free(evp); }
  EVP_MD_CTX* evp;
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  LORAD_CHECK(EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(std::string_view bytes) {
  LORAD_CHECK(EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size()) == 1);
}

std::string Sha256::HexDigest() const {
  // Finalising a copy leaves this one open for more bytes.
  const Context copy;
  LORAD_CHECK(EVP_MD_CTX_copy_ex(copy.evp, context_->evp) == 1);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  LORAD_CHECK(EVP_DigestFinal_ex(copy.evp, digest, &length) == 1);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), length});
}

std::string Sha256Hex(std::string_view bytes) {
  Sha256 sha;
  sha.Update(bytes);
  return sha.HexDigest();
}

absl::StatusOr<std::string> Sha256HexOfFile(const std::string& path) {
  ASSIGN_OR_RETURN(const MmapFile file, MmapFile::Open(path));
  return Sha256Hex(file.bytes());
}

bool IsSha256Hex(std::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace lorad
