// The HTTP listener: /metrics, /healthz, /readyz.
#ifndef LORAD_SERVER_HTTP_HTTP_SERVER_H_
#define LORAD_SERVER_HTTP_HTTP_SERVER_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace lorad::server {

struct HttpHandlers {
  std::function<std::string()> metrics;  // Prometheus text
  // Empty: ready; else why not, in words.
  std::function<std::string()> not_ready;
};

// Thread-safe. A few threads; the handlers are called on them.
class HttpServer {
 public:
  // Listens on host:port; port 0 picks a free one. kFailedPrecondition: it cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& listen,
                                                           HttpHandlers handlers);
  ~HttpServer();

  // host:port, with the port that was picked.
  const std::string& address() const { return address_; }

 private:
  struct Impl;  // keeps httplib.h out of this header
  HttpServer();

  const std::unique_ptr<Impl> impl_;
  std::string address_;
  std::thread thread_;
};

}  // namespace lorad::server

#endif  // LORAD_SERVER_HTTP_HTTP_SERVER_H_
