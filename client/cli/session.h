// What a command works with: the connection, the streams, the output form.
#ifndef LORAD_CLIENT_CLI_SESSION_H_
#define LORAD_CLIENT_CLI_SESSION_H_

#include <atomic>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/arguments.h"
#include "client/cli/option.h"
#include "client/connection.h"
#include "google/protobuf/message.h"

namespace lorad::client::cli {

// Options that every command takes; they fill a Session.
const std::vector<Option>& GlobalOptions();

struct Streams {
  std::ostream& out;
  std::ostream& err;
  bool terminal = false;  // `out` is one
  int width = 80;         // its columns
};

class Session {
 public:
  // Reads the global options; the environment fills in LORAD_SERVER and LORAD_TOKEN. Nothing is
  // sent yet. Usage errors for options that contradict each other.
  static absl::StatusOr<std::unique_ptr<Session>> Create(const Arguments& arguments,
                                                         const Streams& streams);

  const std::shared_ptr<Connection>& connection() const { return connection_; }
  std::ostream& out() const { return streams_.out; }
  std::ostream& err() const { return streams_.err; }
  bool terminal() const { return streams_.terminal && !json_; }
  int width() const { return streams_.width; }
  bool json() const { return json_; }

  // One line of JSON on out(), flushed: a reader on a pipe sees it at once.
  void PrintJson(const google::protobuf::Message& message) const;

  // From another thread: ends the calls that run and those that come.
  void Interrupt();
  bool interrupted() const { return interrupted_; }

 private:
  Session(const Streams& streams, bool json, std::shared_ptr<Connection> connection)
      : streams_(streams), json_(json), connection_(std::move(connection)) {}

  Streams streams_;
  bool json_;
  std::shared_ptr<Connection> connection_;
  std::atomic<bool> interrupted_ = false;
};

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_SESSION_H_
