#ifndef LORAD_TESTS_BENCH_SCRATCH_DIR_H_
#define LORAD_TESTS_BENCH_SCRATCH_DIR_H_

#include <stdlib.h>

#include <filesystem>
#include <string>
#include <system_error>

namespace lorad::bench {

// A folder for the files that a job wants; gone at the end with all in it.
class ScratchDir {
 public:
  ScratchDir() : path_((std::filesystem::temp_directory_path() / "lorad-bench-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~ScratchDir() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;

  bool ok() const { return !path_.empty(); }
  std::string File(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace lorad::bench

#endif  // LORAD_TESTS_BENCH_SCRATCH_DIR_H_
