// Numbers as people read them.
#ifndef LORAD_CLIENT_CLI_FORMAT_H_
#define LORAD_CLIENT_CLI_FORMAT_H_

#include <cstdint>
#include <string>

namespace lorad::client::cli {

std::string FormatBytes(int64_t bytes);       // "512 B", "1.5 MiB"
std::string FormatCount(int64_t count);       // "812", "12.3k", "1.24M", "7.0B"
std::string FormatSeconds(double seconds);    // "0.8 s", "42 s", "3:07", "1:02:33"
std::string FormatSignificant(double value);  // four digits: "1.234", "0.0002", "2e-05"

}  // namespace lorad::client::cli

#endif  // LORAD_CLIENT_CLI_FORMAT_H_
