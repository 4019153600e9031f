// host:port of a listener.
#ifndef LORAD_SERVER_BASE_LISTEN_ADDRESS_H_
#define LORAD_SERVER_BASE_LISTEN_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace lorad::server {

struct ListenAddress {
  std::string host;  // without the brackets of an IPv6 address
  int port = 0;      // 0: pick a free one
};

// "host:port", "[::1]:port". kInvalidArgument names the flag and what is wrong.
absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view flag, absl::string_view text);

// The same address with this port.
std::string WithPort(absl::string_view listen, int port);

// True for 127.0.0.0/8, ::1 and "localhost".
bool IsLoopback(const std::string& host);

// Binds and releases the address, to learn why it cannot be bound: kFailedPrecondition names the
// address and the system's reason. No guarantee for later.
absl::Status CheckCanListen(absl::string_view flag, const ListenAddress& address);

}  // namespace lorad::server

#endif  // LORAD_SERVER_BASE_LISTEN_ADDRESS_H_
