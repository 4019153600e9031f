// A directory for the files of one test.
#ifndef LORAD_TESTS_SUPPORT_TEMP_DIR_H_
#define LORAD_TESTS_SUPPORT_TEMP_DIR_H_

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include "gtest/gtest.h"

namespace lorad {

// Fresh and empty; removed with all in it at the end. Thread-compatible.
class TempDir {
 public:
  TempDir() {
    std::string pattern = testing::TempDir() + "/lorad-test-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) ADD_FAILURE() << "mkdtemp failed: " << pattern;
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  // The path of the file `name` in the directory.
  std::string File(std::string_view name) const { return path_ + "/" + std::string(name); }
  // Writes the file and returns its path.
  std::string Write(std::string_view name, std::string_view bytes) const {
    std::ofstream(File(name), std::ios::binary) << bytes;
    return File(name);
  }

 private:
  std::string path_;
};

}  // namespace lorad

#endif  // LORAD_TESTS_SUPPORT_TEMP_DIR_H_
