#include "client/cli/subprocess.h"

#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

// A file in memory: unlike a pipe it takes any amount, so neither side ever waits for the other.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("program", MFD_CLOEXEC)) {}
  ~MemoryFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int fd() const { return fd_; }

  // Writes all of it and goes back to the start.
  absl::Status Fill(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return absl::ErrnoToStatus(errno, "keeping a program's input in memory");
      bytes.remove_prefix(static_cast<size_t>(written));
    }
    ::lseek(fd_, 0, SEEK_SET);
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Content() const {
    std::string content;
    std::array<char, 1 << 16> part;
    while (true) {
      const ssize_t count =
          ::pread(fd_, part.data(), part.size(), static_cast<off_t>(content.size()));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return absl::ErrnoToStatus(errno, "reading a program's output");
      if (count == 0) return content;
      content.append(part.data(), static_cast<size_t>(count));
    }
  }

 private:
  const int fd_;
};

// The program's wait status, once it has ended.
absl::StatusOr<int> Wait(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return absl::ErrnoToStatus(errno, "waiting for a program");
  }
  return status;
}

std::string Failure(int status) {
  if (WIFSIGNALED(status)) return absl::StrCat("signal ", WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) return absl::StrCat("exit code ", WEXITSTATUS(status));
  return "";
}

}  // namespace

absl::StatusOr<ProgramResult> RunProgram(std::vector<std::string> words, std::string_view input) {
  MemoryFile in, out, err;
  if (in.fd() < 0 || out.fd() < 0 || err.fd() < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("files for running ", words[0]));
  }
  RETURN_IF_ERROR(in.Fill(input));
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.fd(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.fd(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.fd(), STDERR_FILENO);
  pid_t pid = 0;
  const int error = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return absl::ErrnoToStatus(error, absl::StrCat("starting ", words[0]));

  ASSIGN_OR_RETURN(const int status, Wait(pid));
  ProgramResult result{.failure = Failure(status)};
  ASSIGN_OR_RETURN(result.out, out.Content());
  ASSIGN_OR_RETURN(result.err, err.Content());
  return result;
}

}  // namespace lorad::client::cli
