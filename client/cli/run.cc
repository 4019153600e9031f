#include "client/cli/run.h"

#include <atomic>

#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/help.h"
#include "client/cli/interrupt.h"
#include "client/cli/parser.h"

namespace lorad::client::cli {
namespace {

int ReportUsage(const absl::Status& status, const std::string& command, const Streams& streams) {
  streams.err << DescribeError(status, "") << "hint: loractl " << command
              << (command.empty() ? "" : " ") << "--help\n";
  return kUsage;
}

int PrintHelp(const Invocation& invocation, const Streams& streams) {
  streams.out << (invocation.command ? CommandHelp(*invocation.command, GlobalOptions())
                                     : Overview(invocation.group, AllCommands(), GlobalOptions()));
  return kOk;
}

int RunCommand(const Invocation& invocation, const Streams& streams) {
  // Before the connection is made: gRPC's threads must inherit the blocked signals.
  std::atomic<Session*> current = nullptr;
  const InterruptGuard guard([&] {
    if (Session* session = current) session->Interrupt();
  });
  auto session = Session::Create(invocation.arguments, streams);
  if (!session.ok()) return ReportUsage(session.status(), invocation.command->path, streams);
  current = session->get();
  const absl::StatusOr<int> code = invocation.command->run(**session, invocation.arguments);
  streams.out.flush();
  if (code.ok()) return *code;
  if ((*session)->interrupted() && absl::IsCancelled(code.status())) return kInterrupted;
  if (IsUsageError(code.status())) {
    return ReportUsage(code.status(), invocation.command->path, streams);
  }
  streams.err << DescribeError(code.status(), (*session)->connection()->options().server);
  return ExitCodeOf(code.status());
}

}  // namespace

int RunCommandLine(const std::vector<std::string>& words, const Streams& streams) {
  const absl::StatusOr<Invocation> invocation = Parse(words, AllCommands(), GlobalOptions());
  if (words.empty()) {
    streams.err << Overview({}, AllCommands(), GlobalOptions());
    return kUsage;
  }
  if (!invocation.ok()) return ReportUsage(invocation.status(), "", streams);
  if (invocation->version) {
    streams.out << "loractl " << LORAD_VERSION << "\n";
    return kOk;
  }
  if (invocation->help) return PrintHelp(*invocation, streams);
  return RunCommand(*invocation, streams);
}

}  // namespace lorad::client::cli
