#include "client/cli/session.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/errors.h"
#include "client/cli/json.h"

namespace lorad::client::cli {
namespace {

constexpr char kDefaultServer[] = "127.0.0.1:7430";

std::string FromEnvironment(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? value : otherwise;
}

// "host" and "[::1]" get the default port.
std::string WithPort(const std::string& server) {
  if (absl::StartsWith(server, "unix:") || absl::StrContains(server, "://")) return server;
  const size_t colon = server.rfind(':');
  const bool has_port = colon != std::string::npos && server.find(']', colon) == std::string::npos;
  return has_port ? server : absl::StrCat(server, ":7430");
}

}  // namespace

const std::vector<Option>& GlobalOptions() {
  static const auto* const options = new std::vector<Option>{
      {"server", OptionType::kText, "HOST:PORT",
       "where lorad listens, or unix:PATH; else LORAD_SERVER", kDefaultServer},
      {"token", OptionType::kText, "TOKEN", "bearer token; better kept in LORAD_TOKEN", ""},
      {"tls", OptionType::kBool, "", "connect with TLS and the system's certificates", "false"},
      {"tls_ca", OptionType::kText, "FILE",
       "PEM certificates that the server's must come from; implies --tls", ""},
      {"tls_cert", OptionType::kText, "FILE", "PEM certificate of this client; needs --tls_key",
       ""},
      {"tls_key", OptionType::kText, "FILE", "PEM key of this client", ""},
      {"tls_server_name", OptionType::kText, "NAME", "name expected in the server's certificate",
       "the host"},
      {"output",
       OptionType::kText,
       "",
       "for people, or one JSON object per line",
       "table",
       {"table", "json"}},
      {"timeout", OptionType::kDuration, "TIME",
       "limit for the whole command; a job goes on when --wait runs out",
       "60s for calls that answer at once, 1h for work, none for watching"},
  };
  return *options;
}

absl::StatusOr<std::unique_ptr<Session>> Session::Create(const Arguments& arguments,
                                                         const Streams& streams) {
  ConnectOptions options;
  options.server =
      WithPort(arguments.Text("server", FromEnvironment("LORAD_SERVER", kDefaultServer)));
  options.token = arguments.Text("token", FromEnvironment("LORAD_TOKEN", ""));
  options.tls = arguments.Bool("tls");
  options.tls_ca = arguments.Text("tls_ca");
  options.tls_cert = arguments.Text("tls_cert");
  options.tls_key = arguments.Text("tls_key");
  options.tls_server_name = arguments.Text("tls_server_name");
  if (arguments.Has("timeout")) {
    const absl::Duration timeout = arguments.Duration("timeout", absl::InfiniteDuration());
    options.deadline = absl::Now() + timeout;
    options.call_timeout = timeout;
    options.work_timeout = timeout;
  }
  auto connection = Connection::Open(std::move(options));
  if (!connection.ok()) return UsageError(std::string(connection.status().message()));
  const bool json = arguments.Text("output", "table") == "json";
  return std::unique_ptr<Session>(new Session(streams, json, *std::move(connection)));
}

void Session::PrintJson(const google::protobuf::Message& message) const {
  out() << JsonLine(ToJson(message)) << std::endl;
}

void Session::Interrupt() {
  interrupted_ = true;
  connection_->CancelAll();
}

}  // namespace lorad::client::cli
