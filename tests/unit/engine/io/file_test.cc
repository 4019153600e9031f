#include "engine/io/file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "engine/io/atomic_directory.h"
#include "engine/io/mmap_file.h"
#include "engine/io/sha256.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace lorad {
namespace {

using absl::StatusCode;

std::vector<std::string> Names(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(FileTest, WritesAndReadsBack) {
  const TempDir dir;
  const std::string path = dir.File("a.bin");
  const std::string bytes("\0\xff\n\r", 4);
  ASSERT_OK(WriteFileAtomically(path, bytes));
  ASSERT_OK_AND_ASSIGN(const std::string read, ReadFile(path));
  EXPECT_EQ(read, bytes);
  ASSERT_OK(WriteFileAtomically(path, ""));
  ASSERT_OK_AND_ASSIGN(const std::string empty, ReadFile(path));
  EXPECT_EQ(empty, "");
  EXPECT_EQ(Names(dir.path()), std::vector<std::string>{"a.bin"});
}

TEST(FileTest, ReaderNeverSeesAMixtureOfTwoWrites) {
  const TempDir dir;
  const std::string path = dir.File("a");
  const std::string contents[2] = {std::string(300'000, 'a'), std::string(200'000, 'b')};
  ASSERT_OK(WriteFileAtomically(path, contents[0]));
  std::thread writer([&] {
    for (int i = 1; i <= 50; ++i) ASSERT_OK(WriteFileAtomically(path, contents[i % 2]));
  });
  for (int i = 0; i < 50; ++i) {
    ASSERT_OK_AND_ASSIGN(const std::string read, ReadFile(path));
    EXPECT_TRUE(read == contents[0] || read == contents[1]) << read.size();
  }
  writer.join();
}

// A full disk, by the limit on the size of files.
TEST(FileTest, FailedWriteLeavesTheOldContentAndNoTemporary) {
  const TempDir dir;
  const std::string path = dir.Write("a", "old");
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 1000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = WriteFileAtomically(path, std::string(5000, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(status, StatusIs(StatusCode::kResourceExhausted, "File too large"));
  EXPECT_THAT(status, StatusIs(StatusCode::kResourceExhausted, dir.path()));
  ASSERT_OK_AND_ASSIGN(const std::string read, ReadFile(path));
  EXPECT_EQ(read, "old");
  EXPECT_EQ(Names(dir.path()), std::vector<std::string>{"a"});
}

TEST(FileTest, ErrorsNamePathAndReason) {
  const TempDir dir;
  EXPECT_THAT(ReadFile(dir.File("none")), StatusIs(StatusCode::kNotFound, dir.File("none")));
  EXPECT_THAT(ReadFile(dir.File("none")), StatusIs(StatusCode::kNotFound, "No such file"));
  EXPECT_THAT(WriteFileAtomically(dir.File("none/a"), "x"),
              StatusIs(StatusCode::kNotFound, "none"));
  EXPECT_THAT(ReadFile(dir.path()), StatusIs(StatusCode::kInvalidArgument, "not a regular file"));
  ASSERT_EQ(mkfifo(dir.File("fifo").c_str(), 0600), 0);
  EXPECT_THAT(ReadFile(dir.File("fifo")),
              StatusIs(StatusCode::kInvalidArgument, "not a regular file"));
  EXPECT_THAT(ReadFile("/dev/zero"), StatusIs(StatusCode::kInvalidArgument, "not a regular file"));
}

TEST(FileTest, RefusesAFileOverTheLimitBeforeAllocating) {
  const TempDir dir;
  const std::string path = dir.Write("sparse", "");
  ASSERT_EQ(truncate(path.c_str(), off_t{1} << 40), 0);  // 1 TiB on paper
  EXPECT_THAT(ReadFile(path), StatusIs(StatusCode::kResourceExhausted, "1099511627776"));
  dir.Write("ten", "0123456789");
  EXPECT_OK(ReadFile(dir.File("ten"), 10));
  EXPECT_THAT(ReadFile(dir.File("ten"), 9), StatusIs(StatusCode::kResourceExhausted, "limit of 9"));
}

TEST(FileTest, CreatesAndRemovesDirectories) {
  const TempDir dir;
  const std::string deep = dir.File("a/b//c/");
  ASSERT_OK(CreateDirectories(deep));
  ASSERT_OK(CreateDirectories(deep));
  dir.Write("a/b/c/file", "x");
  EXPECT_THAT(CreateDirectories(dir.File("a/b/c/file/d")), StatusIs(StatusCode::kNotFound, "file"));
  EXPECT_THAT(CreateDirectories(dir.File("a/b/c/file")),
              StatusIs(StatusCode::kAlreadyExists, "file"));
  dir.Write("kept", "x");
  ASSERT_EQ(symlink(dir.File("kept").c_str(), dir.File("a/link").c_str()), 0);
  ASSERT_OK(RemoveDirectory(dir.File("a")));
  ASSERT_OK(RemoveDirectory(dir.File("a")));
  EXPECT_EQ(Names(dir.path()), std::vector<std::string>{"kept"});
  ASSERT_OK(RemoveFile(dir.File("kept")));
  ASSERT_OK(RemoveFile(dir.File("kept")));
  EXPECT_TRUE(Names(dir.path()).empty());
}

TEST(FileTest, RemovesOrphansOfOtherProcessesOnly) {
  const TempDir dir;
  dir.Write(".lorad-tmp-0123456789abcdef-7", "half written");
  dir.Write("kept", "x");
  std::filesystem::create_directory(dir.File(".lorad-tmp-0123456789abcdef-8"));
  dir.Write(".lorad-tmp-0123456789abcdef-8/inner", "x");
  ASSERT_OK_AND_ASSIGN(auto mine, AtomicDirectory::Create(dir.File("final")));
  ASSERT_OK_AND_ASSIGN(const int removed, RemoveOrphanTemporaries(dir.path()));
  EXPECT_EQ(removed, 2);
  EXPECT_TRUE(PathExists(mine->path()));
  EXPECT_TRUE(PathExists(dir.File("kept")));
  ASSERT_OK(mine->Publish());
  EXPECT_EQ(Names(dir.path()), (std::vector<std::string>{"final", "kept"}));
}

TEST(FileTest, TellsTheFreeSpace) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(const int64_t bytes, FreeDiskBytes(dir.path()));
  EXPECT_GT(bytes, 0);
  EXPECT_THAT(FreeDiskBytes(dir.File("none")), StatusIs(StatusCode::kNotFound, "none"));
}

TEST(AtomicDirectoryTest, PublishesAllFilesAtOnce) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(auto pending, AtomicDirectory::Create(dir.File("v1")));
  ASSERT_OK(pending->WriteFile("a", "1"));
  ASSERT_OK(pending->WriteFile("b", "2"));
  EXPECT_FALSE(PathExists(dir.File("v1")));
  ASSERT_OK(pending->Publish());
  pending.reset();
  EXPECT_EQ(Names(dir.path()), std::vector<std::string>{"v1"});
  EXPECT_EQ(Names(dir.File("v1")), (std::vector<std::string>{"a", "b"}));
}

TEST(AtomicDirectoryTest, LeavesNothingWhenNotPublished) {
  const TempDir dir;
  {
    ASSERT_OK_AND_ASSIGN(auto pending, AtomicDirectory::Create(dir.File("v1")));
    ASSERT_OK(pending->WriteFile("a", "1"));
  }
  EXPECT_TRUE(Names(dir.path()).empty());
}

TEST(AtomicDirectoryTest, NeverReplacesWhatIsThere) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(auto pending, AtomicDirectory::Create(dir.File("v1")));
  std::filesystem::create_directory(dir.File("v1"));  // empty: plain rename() would replace it
  EXPECT_THAT(pending->Publish(), StatusIs(StatusCode::kAlreadyExists, "v1"));
  EXPECT_THAT(AtomicDirectory::Create(dir.File("v1")), StatusIs(StatusCode::kAlreadyExists, "v1"));
  pending.reset();
  EXPECT_EQ(Names(dir.path()), std::vector<std::string>{"v1"});
}

TEST(AtomicDirectoryTest, RefusesNamesThatLeaveIt) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(auto pending, AtomicDirectory::Create(dir.File("v1")));
  for (const char* name : {"", ".", "..", "../x", "a/b"})
    EXPECT_THAT(pending->WriteFile(name, "x"),
                StatusIs(StatusCode::kInvalidArgument, "plain file name"));
}

TEST(MmapFileTest, MapsRegularFilesOnly) {
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(const MmapFile file, MmapFile::Open(dir.Write("a", "content")));
  EXPECT_EQ(file.bytes(), "content");
  EXPECT_OK(file.CheckUnchanged());
  ASSERT_OK_AND_ASSIGN(const MmapFile empty, MmapFile::Open(dir.Write("empty", "")));
  EXPECT_EQ(empty.size_bytes(), 0);
  ASSERT_EQ(symlink(dir.File("a").c_str(), dir.File("link").c_str()), 0);
  ASSERT_OK_AND_ASSIGN(MmapFile link, MmapFile::Open(dir.File("link")));
  const MmapFile moved = std::move(link);
  EXPECT_EQ(moved.bytes(), "content");

  ASSERT_EQ(mkfifo(dir.File("fifo").c_str(), 0600), 0);
  for (const std::string& path : {dir.File("fifo"), dir.path(), std::string("/dev/null")})
    EXPECT_THAT(MmapFile::Open(path), StatusIs(StatusCode::kInvalidArgument, path));
  EXPECT_THAT(MmapFile::Open(dir.File("none")), StatusIs(StatusCode::kNotFound, "none"));
}

TEST(MmapFileTest, NoticesAFileThatWasCutShort) {
  const TempDir dir;
  const std::string path = dir.Write("a", std::string(10'000, 'x'));
  ASSERT_OK_AND_ASSIGN(const MmapFile file, MmapFile::Open(path));
  ASSERT_EQ(truncate(path.c_str(), 100), 0);
  EXPECT_THAT(file.CheckUnchanged(), StatusIs(StatusCode::kDataLoss, "10000 bytes when opened"));
}

// FIPS 180-4 examples.
TEST(Sha256Test, AgreesWithThePublishedDigests) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const char* const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  EXPECT_EQ(Sha256Hex("abc"), abc);
  Sha256 sha;
  sha.Update("a");
  EXPECT_NE(sha.HexDigest(), abc);
  sha.Update("");
  sha.Update("bc");
  EXPECT_EQ(sha.HexDigest(), abc);
  EXPECT_EQ(sha.HexDigest(), abc);
  const TempDir dir;
  ASSERT_OK_AND_ASSIGN(const std::string of_file, Sha256HexOfFile(dir.Write("a", "abc")));
  EXPECT_EQ(of_file, abc);
  EXPECT_TRUE(IsSha256Hex(abc));
  EXPECT_FALSE(IsSha256Hex("abc"));
  EXPECT_FALSE(IsSha256Hex(std::string(64, 'G')));
  EXPECT_FALSE(IsSha256Hex(std::string(64, 'A')));
}

}  // namespace
}  // namespace lorad
