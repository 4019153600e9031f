// loractl: the command line of lorad.
#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <string>
#include <vector>

#include "client/cli/run.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a pager that was closed is no crash; writes fail instead
  std::ios::sync_with_stdio(false);
  winsize size{};
  const bool terminal = isatty(STDOUT_FILENO) == 1;
  if (terminal) (void)ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
  const lorad::client::cli::Streams streams{.out = std::cout,
                                            .err = std::cerr,
                                            .terminal = terminal,
                                            .width = size.ws_col > 0 ? size.ws_col : 80};
  return lorad::client::cli::RunCommandLine(std::vector<std::string>(argv + 1, argv + argc),
                                            streams);
}
