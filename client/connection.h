// A connection to lorad: address, credentials, deadlines, retries.
#ifndef LORAD_CLIENT_CONNECTION_H_
#define LORAD_CLIENT_CONNECTION_H_

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace grpc {
class Channel;
class ClientContext;
class Status;
}  // namespace grpc

namespace lorad::client {

struct ConnectOptions {
  std::string server = "127.0.0.1:7430";  // host:port, or unix:PATH
  std::string token = {};                 // sent as "authorization: Bearer"; empty: none
  bool tls = false;
  std::string tls_ca = {};    // PEM file; empty: the system's
  std::string tls_cert = {};  // PEM files of the client's own certificate; empty: none
  std::string tls_key = {};
  std::string tls_server_name = {};  // expected in the server's certificate; empty: the host

  // A TCP connection of its own: otherwise connections of equal options share one.
  bool unshared = false;

  absl::Duration call_timeout = absl::Seconds(60);  // of calls that answer at once
  absl::Duration work_timeout = absl::Hours(1);     // of calls that compute or move files
  absl::Time deadline = absl::InfiniteFuture();     // of everything

  int max_attempts = 4;                                    // of one idempotent call
  absl::Duration first_backoff = absl::Milliseconds(100);  // doubles up to max_backoff
  absl::Duration max_backoff = absl::Seconds(1);
};

struct CallOptions {
  bool idempotent = false;  // repeat it after UNAVAILABLE
  bool work = false;        // work_timeout instead of call_timeout
  bool stream = false;      // no timeout but the connection's deadline
};

// Thread-safe. The clients of the services (JobClient, ...) share one.
class Connection {
 public:
  // Reads the TLS files; nothing is sent yet. InvalidArgument: options that contradict each other,
  // or a token that would travel in clear to another host. Errors of ReadFile for the TLS files.
  static absl::StatusOr<std::shared_ptr<Connection>> Open(ConnectOptions options);
  ~Connection();

  const ConnectOptions& options() const { return options_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Runs one call: sets deadline and credentials, repeats it as `call` allows, converts its status.
  // CANCELLED that neither this side nor the server's own code asked for is UNAVAILABLE: a server
  // that goes away in that moment. An attempt that gives up by itself returns StoppedHere().
  absl::Status Run(const CallOptions& call,
                   const std::function<grpc::Status(grpc::ClientContext&)>& attempt);

  // Run() of a call with one reply: `attempt` is (ClientContext*, Reply*) -> grpc::Status.
  template <typename Reply, typename Attempt>
  absl::StatusOr<Reply> Unary(const CallOptions& call, Attempt attempt) {
    Reply reply;
    absl::Status status = Run(call, [&](grpc::ClientContext& context) {
      reply.Clear();
      return attempt(&context, &reply);
    });
    if (!status.ok()) return status;
    return reply;
  }

  // Cancels all calls that run, and those that begin later: they end with kCancelled.
  void CancelAll();
  bool cancelled() const;

  // Sleeps, at most until the deadline; returns at once, and false, when cancelled.
  bool Sleep(absl::Duration duration) const;

 private:
  Connection(ConnectOptions options, std::shared_ptr<grpc::Channel> channel);
  absl::Status RunOnce(const CallOptions& call,
                       const std::function<grpc::Status(grpc::ClientContext&)>& attempt);

  const ConnectOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  mutable absl::Mutex mutex_;
  std::set<grpc::ClientContext*> running_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

// For an attempt that was ended on this side, for a reason that its caller keeps: never repeated.
grpc::Status StoppedHere();

// A random UUID (version 4), for request_id.
std::string NewRequestId();

}  // namespace lorad::client

#endif  // LORAD_CLIENT_CONNECTION_H_
