#include "client/health.h"

#include "client/cli/commands.h"
#include "client/cli/errors.h"
#include "client/cli/json.h"
#include "client/cli/session.h"
#include "engine/core/status_macros.h"

namespace lorad::client::cli {
namespace {

void PrintHealth(const Session& session, const std::string& status) {
  if (session.json()) {
    session.out() << JsonLine({{"status", status}}) << std::endl;
  } else {
    session.out() << status << std::endl;
  }
}

absl::StatusOr<int> RunHealth(Session& session, const Arguments& arguments) {
  HealthClient health(session.connection());
  const std::string service = arguments.Text("service");
  if (arguments.Bool("watch")) {
    RETURN_IF_ERROR(health.Watch(service, [&](const std::string& status) {
      PrintHealth(session, status);
      return session.out().good();
    }));
    return 0;
  }
  ASSIGN_OR_RETURN(const std::string status, health.Check(service));
  PrintHealth(session, status);
  return status == "SERVING" ? kOk : kUnavailable;
}

}  // namespace

Command HealthCommand() {
  return {
      .path = "health",
      .summary = "Tells whether the server takes work; exit code 4 when it does not",
      .options = {{"service", OptionType::kText, "NAME",
                   "full name of a service, such as lorad.v1.InferenceService", "the server"},
                  {"watch", OptionType::kBool, "", "goes on with a line at each change", "false"}},
      .examples = {{"loractl health", ""}, {"loractl health --watch", ""}},
      .run = RunHealth};
}

}  // namespace lorad::client::cli
