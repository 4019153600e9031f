#include "server/http/http_server.h"

#include <httplib.h>

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "engine/core/status_macros.h"
#include "server/base/listen_address.h"

namespace lorad::server {
namespace {

constexpr int kThreads = 8;  // idle connections hold one each for up to a second
constexpr int kTimeoutSeconds = 5;

void Configure(httplib::Server& server) {
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };  // httplib takes it
  // httplib's default is SO_REUSEPORT, with which two daemons would share the port.
  server.set_socket_options([](int socket) {
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  server.set_read_timeout(kTimeoutSeconds);
  server.set_write_timeout(kTimeoutSeconds);
  // A connection holds a thread while it lives: a scraper's is not kept for its next visit.
  server.set_keep_alive_timeout(1);
  server.set_keep_alive_max_count(16);
  server.set_payload_max_length(0);  // nothing here takes a body
}

void Route(httplib::Server& server, const HttpHandlers& handlers) {
  server.Get("/metrics",
             [metrics = handlers.metrics](const httplib::Request&, httplib::Response& response) {
               response.set_content(metrics(), "text/plain; version=0.0.4; charset=utf-8");
             });
  server.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("ok\n", "text/plain");
  });
  server.Get("/readyz", [not_ready = handlers.not_ready](const httplib::Request&,
                                                         httplib::Response& response) {
    const std::string why = not_ready();
    if (!why.empty()) response.status = 503;
    response.set_content(why.empty() ? "ok\n" : absl::StrCat("not ready: ", why, "\n"),
                         "text/plain");
  });
}

}  // namespace

struct HttpServer::Impl {
  httplib::Server server;
};

HttpServer::HttpServer() : impl_(std::make_unique<Impl>()) {}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& listen,
                                                              HttpHandlers handlers) {
  ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress("http_listen", listen));
  auto http = absl::WrapUnique(new HttpServer);
  httplib::Server& server = http->impl_->server;
  Configure(server);
  Route(server, handlers);
  int port = address.port;
  const bool bound = port == 0 ? (port = server.bind_to_any_port(address.host)) > 0
                               : server.bind_to_port(address.host, port);
  if (!bound) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot listen on ", listen, " for HTTP; is the port in use by another process?"));
  }
  http->address_ = WithPort(listen, port);
  http->thread_ = std::thread([&server] { server.listen_after_bind(); });
  return http;
}

HttpServer::~HttpServer() {
  if (!thread_.joinable()) return;
  // stop() does nothing before the thread has begun to accept.
  while (!impl_->server.is_running()) std::this_thread::yield();
  impl_->server.stop();
  thread_.join();
}

}  // namespace lorad::server
